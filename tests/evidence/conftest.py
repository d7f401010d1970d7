from pathlib import Path

import pytest

from k2run.engine.journal import read_journal
from k2run.evidence.view import view_of

JOURNALS = Path(__file__).parent / "journals"


@pytest.fixture
def demo_day():
    """A run that went well: go, with items for a person."""
    return read_journal(JOURNALS / "demo-day.jsonl")


@pytest.fixture
def consumer_killed():
    """A run that was interrupted, full of hostile text, with a fault that could not be undone."""
    return read_journal(JOURNALS / "consumer-killed.jsonl")


@pytest.fixture
def api_load():
    """A benchmark on a busy machine: one load lost its threshold."""
    return read_journal(JOURNALS / "api.jsonl")


@pytest.fixture
def good(demo_day):
    return view_of(demo_day)


@pytest.fixture
def bad(consumer_killed):
    return view_of(consumer_killed)


@pytest.fixture
def measured():
    """A run with measurements over time, loads, and questions to an operator."""
    return view_of(read_journal(JOURNALS / "measured.jsonl"))
