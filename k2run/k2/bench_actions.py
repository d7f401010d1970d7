"""Further `bench.*` actions, for K2's pipeline: from the topic of trades to the table and the API."""

from k2run.k2.bench_ingest import ingest
from k2run.k2.bench_pipeline import pipeline

__all__ = ["ingest", "pipeline"]
