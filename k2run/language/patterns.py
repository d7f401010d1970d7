"""Regular expressions from runbooks, without the patterns and texts on which Python's matcher runs for ever."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

from k2run.language.budget import spend

MAX_PATTERN = 500
MAX_TEXT = 1_000_000
"""Characters of text that may be searched."""
MAX_STEPS = 200_000_000
"""Positions that the matcher may have to try in the worst case; about half a second."""
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
MANY = 64
"""A repeat that may go further than this counts as open."""


class _Cost(NamedTuple):
    """What makes a pattern slow.

    Attributes:
        repeats: Open repeats (`*`, `+`).
        ways: In how many ways its choices and its other repeats can be taken.
    """

    repeats: int = 0
    ways: int = 1

    def then(self, other: _Cost) -> _Cost:
        """Of both, one after the other."""
        return _Cost(self.repeats + other.repeats, self.ways * other.ways)

    def times(self, count: int) -> _Cost:
        """Of as many in a row; what is too much anyway is counted no further."""
        return _Cost(min(self.repeats * count, MAX_PATTERN), min(min(self.ways, MAX_STEPS + 1) ** count, MAX_STEPS + 1))

    def steps(self, length: int, *, anywhere: bool) -> int:
        """The positions to be tried in a text of that many characters."""
        ends = self.repeats + anywhere
        return math.comb(length + ends, ends) * self.ways


def search(text: Any, pattern: str) -> bool:
    """Whether the pattern occurs anywhere in the text."""
    return _checked(pattern, text, anywhere=True).search(text) is not None


def matches(text: Any, pattern: str) -> bool:
    """Whether the pattern matches the whole text."""
    return _checked(pattern, text, anywhere=False).fullmatch(text) is not None


def _checked(pattern: str, text: Any, *, anywhere: bool) -> re.Pattern[str]:
    if not isinstance(text, str):
        msg = f"a pattern is matched against a text, not {type(text).__name__}"
        raise TypeError(msg)
    compiled, cost, within_lines = _compiled(pattern)
    lengths = map(len, text.split("\n")) if within_lines else [len(text)]
    steps = len(text) + sum(cost.steps(length, anywhere=anywhere) for length in lengths)
    if len(text) > MAX_TEXT or steps > MAX_STEPS:
        msg = f"{len(text):,} characters are too many for this pattern: fewer `*`, `+`, `?` and `|` take longer texts"
        raise ValueError(msg)
    spend(min(steps, len(text)) + steps // 20)
    return compiled


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> tuple[re.Pattern[str], _Cost, bool]:
    """The pattern, its cost, and whether nothing that it repeats goes on beyond a line."""
    if len(pattern) > MAX_PATTERN:
        msg = f"a pattern has at most {MAX_PATTERN} characters"
        raise ValueError(msg)
    try:
        compiled = re.compile(pattern)
        tree = re._parser.parse(pattern)  # type: ignore[attr-defined] # noqa: SLF001 - the only parser of patterns there is
        return compiled, _cost(tree), "(?" not in pattern and _only_dots(tree)
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"not a pattern: {error}"
        raise ValueError(msg) from error


def _only_dots(tree: Any) -> bool:
    """Whether `.` is all that is repeated, and no group or choice is there."""
    for operator, argument in tree:
        name = str(operator)
        if name in _REPEATS and [str(part[0]) for part in argument[2]] != ["ANY"]:
            return False
        if name not in {*_REPEATS, "LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"}:
            return False
    return True


def _cost(tree: Any, *, within: bool = False) -> _Cost:
    """What a pattern costs.

    Raises:
        ValueError: A repeat stands inside another, or around a choice: the time to match could double with every
            character.
    """
    cost = _Cost()
    for operator, argument in tree:
        name = str(operator)
        if name in _REPEATS:
            cost = cost.then(_repeat(*argument, within=within))
        elif name == "BRANCH":
            if within:
                msg = "a choice inside a repeat may never end: simplify the pattern"
                raise ValueError(msg)
            branches = [_cost(branch) for branch in argument[1]]
            ways = sum(branch.ways for branch in branches)
            cost = cost.then(_Cost(max(branch.repeats for branch in branches), ways))
        elif name == "GROUPREF_EXISTS":
            for branch in filter(None, argument[1:]):
                cost = cost.then(_cost(branch, within=within))
        elif name in ("SUBPATTERN", "ATOMIC_GROUP", "ASSERT", "ASSERT_NOT"):
            cost = cost.then(_cost(argument if name == "ATOMIC_GROUP" else argument[-1], within=within))
        elif name == "GROUPREF" and within:
            msg = "a back reference inside a repeat may never end: simplify the pattern"
            raise ValueError(msg)
    return cost


def _repeat(least: int, most: int, repeated: Any, *, within: bool) -> _Cost:
    is_open = int(most) > MANY
    if within and (is_open or least != most):
        msg = "a repeat inside a repeat may never end: simplify the pattern"
        raise ValueError(msg)
    inner = _cost(repeated, within=within or is_open)
    if is_open:
        return inner.then(_Cost(1))
    return inner.times(int(most)).then(_Cost(0, int(most) - int(least) + 1))
