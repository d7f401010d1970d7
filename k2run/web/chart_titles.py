"""What the values that a run measures are called on a page: by the charts of its stack, else in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k2run.app.launch import open_stack
from k2run.bench.latency import figure
from k2run.errors import K2runError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from k2run.engine.store import Store
    from k2run.evidence.measurements import Series
    from k2run.evidence.view import RunView
    from k2run.stack.model import Chart

_METRIC = re.compile(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b")


def charts_of(view: RunView, store: Store) -> Sequence[Chart]:
    """The charts of a run's stack; none where its file cannot be read any more."""
    if view.started is None:
        return ()
    try:
        return open_stack(view.started.stack, store=store).charts
    except K2runError:
        return ()


def titled(series: Series, known: Iterable[Chart]) -> tuple[str, Sequence[str]]:
    """A title for people, and the names of its levels: those of the stack's chart of the same metric."""
    words = series.title.replace(",", " ").split()
    for chart in known:
        if chart.metric in words:
            return chart.title, chart.levels
    said = _METRIC.sub(
        lambda metric: metric[0].removesuffix("_total").replace("_", " "), series.title.partition(",")[0]
    )
    return said[:1].upper() + said[1:], ()


def written(series: Series, levels: Sequence[str], value: float) -> str:
    """A value of a series with its unit, or as the level that it stands for."""
    return levels[int(value)] if value in range(len(levels)) else f"{figure(value, 4)} {series.unit}".strip()
