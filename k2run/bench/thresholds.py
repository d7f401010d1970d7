"""Thresholds: objectives of a load in words, such as `p99 < 500ms`, and how they are read."""

from __future__ import annotations

import operator
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

from msgspec import Struct

from k2run.language.problems import did_you_mean
from k2run.language.quantities import Duration, Misread, Notation, Rate

if TYPE_CHECKING:
    from collections.abc import Callable

LAST_GREEN = "last green"
"""The baseline of a regression that names none: the newest run on this stack that passed and measured the same load."""
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_PARTS = re.compile(
    r"\s*(?P<metric>[A-Za-z][\w.]*)(?P<regression>\s+regression)?"
    r"\s*(?P<operator>[<>=!≤≥]+)?\s*(?P<bound>.*?)(?:\s+vs\s+(?P<baseline>\S.*?))?\s*$",
    re.DOTALL,
)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_WHOLE = re.compile(r"\d+")
_NAME = re.compile(r"[A-Za-z][\w.-]*")


class Kind(StrEnum):
    """What a metric counts, which says what its bound looks like."""

    TIME = "a time: write 500ms or 2s"
    RATE = "a rate: write 1000/s"
    PART = "a share or a number: write 0.1% or 5"
    NUMBER = "a number: write 1000"
    CHANGE = "a share: write 10%"


REGRESSION = "regression"
MEDIAN = "p50"
METRICS = {
    **dict.fromkeys(("p50", "p90", "p95", "p99", "p999", "mean", "min", "max"), Kind.TIME),
    "rate": Kind.RATE,
    "errors": Kind.PART,
    "empty": Kind.PART,
    "samples": Kind.NUMBER,
    REGRESSION: Kind.CHANGE,
}
"""What a threshold may be about; each but the regression is a figure of every load."""
_SPELLINGS = {"p99.9": "p999"}


class Bound(Struct, frozen=True):
    """The right side of a threshold: seconds, a rate a second, a number, or a share from 0 to 1."""

    value: float
    is_share: bool = False


class Threshold(Notation):
    """One objective of a load.

    Attributes:
        text: As written.
        metric: Its name in `METRICS`.
        quantile: Of a regression, the percentile that it is about: the median unless it names another, since tails
            differ from run to run by themselves.
        operator: A key of `OPERATORS`.
        bound: What the metric is compared with.
        baseline: Of a regression, what it is measured from.
    """

    example: ClassVar[str] = "p99 < 500ms"
    says: ClassVar[str] = (
        "a threshold such as p99 < 500ms, errors < 0.1%, rate > 1000/s or regression < 10% vs baseline"
    )
    pattern: ClassVar[str] = r"^\s*[A-Za-z][\w.]*(\s+regression)?\s*(<=?|>=?|==)\s*\d"

    __slots__ = ("baseline", "bound", "metric", "operator", "quantile", "text")

    def __init__(
        self, text: str, metric: str, operator: str, bound: Bound, quantile: str = "", baseline: str = ""
    ) -> None:
        self.text = text
        self.metric = metric
        self.quantile = quantile
        self.operator = operator
        self.bound = bound
        self.baseline = baseline

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a threshold.

        Raises:
            Misread: It is none; the error says where it goes wrong.
        """
        if isinstance(value, cls):
            return value
        found = _PARTS.match(value) if isinstance(value, str) else None
        if found is None:
            raise Misread("a threshold is a text: what, how it compares, and with what", hint=f"write {cls.example}")
        metric, quantile = _metric(found)
        compares = _operator(found)
        bound = _bound(found, METRICS[metric])
        baseline = _baseline(found, metric, compares)
        return cls(" ".join(str(value).split()), metric, compares, bound, quantile, baseline)

    def holds(self, value: float) -> bool:
        """Whether a measured value (in the bound's unit) keeps to it."""
        return OPERATORS[self.operator](value, self.bound.value)

    @property
    def is_ceiling(self) -> bool:
        """Whether it says how much is too much."""
        return self.operator in {"<", "<="} or (self.operator == "==" and not self.bound.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Threshold) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Threshold({self.text!r})"


def _metric(found: re.Match[str]) -> tuple[str, str]:
    """The metric, and the percentile of a regression."""
    written = found["metric"]
    name = _SPELLINGS.get(written, written)
    if name not in METRICS:
        near = did_you_mean(name.removesuffix("_ms"), METRICS)
        message = f"no load measures `{written}`"
        raise _misread(found, "metric", message, near or f"it is one of {', '.join(METRICS)}")
    if found["regression"] is None:
        return name, MEDIAN if name == REGRESSION else ""
    if name not in PERCENTILES:
        message = f"a regression is shown of percentiles, not of `{written}`"
        raise _misread(found, "metric", message, f"write one of {', '.join(PERCENTILES)}, or `regression` alone")
    return REGRESSION, name


PERCENTILES = ("p50", "p90", "p95", "p99", "p999")


def _operator(found: re.Match[str]) -> str:
    written = found["operator"]
    if written in OPERATORS:
        return str(written)
    if written is None:
        at = found.end("regression" if found["regression"] else "metric")
        hint = f"write {found['metric']} < {found['bound'] or '…'}"
        raise Misread("the threshold does not say how it compares", at=at, length=1, hint=hint)
    meant = {"=": "==", "=<": "<=", "≤": "<=", "=>": ">=", "≥": ">="}.get(written, "")
    hint = f"write {meant}" if meant else f"it is one of {', '.join(OPERATORS)}"
    raise _misread(found, "operator", f"`{written}` does not compare anything", hint)


def _bound(found: re.Match[str], kind: Kind) -> Bound:
    text = found["bound"]
    if not text:
        raise Misread(
            "the threshold has no bound", at=found.end("operator") - 1, length=1, hint=kind.value.partition(": ")[2]
        )
    share = _SHARE.fullmatch(text)
    if share and kind in {Kind.PART, Kind.CHANGE}:
        return Bound(float(share[1]) / 100, is_share=True)
    if _WHOLE.fullmatch(text) and kind in {Kind.PART, Kind.NUMBER}:
        return Bound(float(text))
    try:
        if kind is Kind.TIME:
            return Bound(Duration.parse(text))
        if kind is Kind.RATE:
            return Bound(Rate.parse(text))
    except ValueError:
        pass
    raise _misread(
        found,
        "bound",
        f"`{text}` is no bound for `{found['metric']}`, which is {kind.value.partition(':')[0]}",
        kind.value.partition(": ")[2],
    )


def _baseline(found: re.Match[str], metric: str, compares: str) -> str:
    named = found["baseline"]
    if metric != REGRESSION:
        if named is not None:
            hint = f"write {found['metric']} regression < 10% vs {named}" if found["metric"] in PERCENTILES else ""
            raise _misread(found, "baseline", "only a regression is compared with a baseline", hint)
        return ""
    if compares not in {"<", "<="}:
        raise _misread(found, "operator", "a regression has an upper bound", "write regression < 10%")
    if named is not None and named != LAST_GREEN and not _NAME.fullmatch(named):
        raise _misread(found, "baseline", f"`{named}` is no name of a baseline", f"write a name, or `{LAST_GREEN}`")
    return named or LAST_GREEN


def _misread(found: re.Match[str], part: str, message: str, hint: str) -> Misread:
    return Misread(message, at=found.start(part), length=len(found[part]), hint=hint)
