"""The loads of a run, as pictures of latencies need them: on the page and in letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.bench.latency import counts
from k2run.bench.shown import in_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.evidence.view import RunView


class Load(Struct, frozen=True, kw_only=True):
    """What one step measured of latencies.

    Attributes:
        step: Its name.
        line: Of the journal.
        counts: Milliseconds, ascending, and how many answers took so long; none where the histogram cannot be read.
        percentiles: Milliseconds of each that the samples carry, as people name it: `p50`, `p99.9`.
        not_measured: Why others are missing.
    """

    step: str
    line: int
    counts: list[tuple[float, int]]
    percentiles: dict[str, float]
    not_measured: str

    @property
    def answers(self) -> int:
        """How many there are."""
        return sum(number for _, number in self.counts)

    def says(self) -> str:
        """Such as `p50 5.1 ms, p99 7.9 ms`."""
        told = ", ".join(f"{name} {in_ms(value)}" for name, value in self.percentiles.items())
        return told or "no percentile can be told"


def loads(view: RunView) -> Iterator[Load]:
    """Every load of a run, in its order."""
    for step in view.leaves():
        result = step.result
        if step.finished is not None and result.get("histogram") and result.get("percentiles"):
            yield Load(
                step=step.name,
                line=step.finished.seq,
                counts=_counts(str(result["histogram"])),
                percentiles=_named(result["percentiles"]),
                not_measured=str(result.get("not_measured") or ""),
            )


def _counts(histogram: str) -> list[tuple[float, int]]:
    try:
        return counts(histogram)
    except Exception:  # noqa: BLE001 - whatever a decoder makes of a damaged text, the rest of the run is still right
        return []


def _named(percentiles: dict[str, Any]) -> dict[str, float]:
    known = {name: each.get("value_ms") for name, each in percentiles.items()}
    return {name.replace("999", "99.9"): value for name, value in known.items() if value is not None}
