"""What several generators measured, as one outcome."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from k2run.bench.latency import decoded
from k2run.bench.plan import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

K = TypeVar("K")


def merge(outcomes: Sequence[Outcome], missing: int = 0) -> Outcome:
    """Several outcomes as one: the window is the time in which any of them measured.

    The answers of all are counted over that time. What part of it all of them measured in is `overlap`: where it is
    small, the sum was never put on at once, and is no rate.

    Args:
        outcomes: Of each generator that lived.
        missing: How many did not.
    """
    if len(outcomes) == 1:
        return structs.replace(outcomes[0], missing=missing)
    seconds, overlap = _window(outcomes)
    return Outcome(
        histogram=_merged([one.histogram for one in outcomes]),
        failed=_merged([one.failed for one in outcomes]),
        lateness=_merged([one.lateness for one in outcomes]),
        sure=_merged([one.sure or one.histogram for one in outcomes]) if any(one.sure for one in outcomes) else "",
        from_send=_merged([one.from_send for one in outcomes]),
        started=sum(one.started for one in outcomes),
        seconds=seconds,
        answered=_answered(outcomes),
        began=min(one.began for one in outcomes),
        overlap=overlap,
        missing=missing,
        errors=_summed([one.errors for one in outcomes]),
        own_errors=_summed([one.own_errors for one in outcomes]),
        empty=sum(one.empty for one in outcomes),
        size=sum(one.size for one in outcomes),
        statuses=_summed([one.statuses for one in outcomes]),
        tardy=sum(one.tardy for one in outcomes),
        cpu=max(one.cpu for one in outcomes),
        skipped=sum(one.skipped for one in outcomes),
        lost={threshold: why for one in outcomes for threshold, why in one.lost.items()},
    )


def _window(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Seconds in which any of them measured, and the share of it in which all did."""
    ends = [one.began + one.seconds for one in outcomes]
    begins = [one.began for one in outcomes]
    whole = max(ends) - min(begins)
    return whole, max(0.0, min(ends) - max(begins)) / whole if whole else 0.0


def _answered(outcomes: Sequence[Outcome]) -> int | None:
    counts = [one.answered for one in outcomes if one.answered is not None]
    return sum(counts) if len(counts) == len(outcomes) else None


def _merged(encoded: list[str]) -> str:
    return decoded(encoded).encode()


def _summed(parts: list[dict[K, int]]) -> dict[K, int]:
    return dict(sum(map(Counter, parts), Counter()))
