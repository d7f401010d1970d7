"""Regular expressions from runbooks, without the patterns and texts on which Python's matcher runs for ever."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

MAX_PATTERN = 500
MAX_TEXT = {0: 1_000_000, 1: 20_000, 2: 5_000, 3: 2_000}
"""Characters of text that may be searched, by the number of open repeats (`*`, `+`) in the pattern."""
MAX_TEXT_OTHERWISE = 500
MANY = 64
"""A repeat that may go further than this counts as open."""


def search(text: Any, pattern: str) -> bool:
    """Whether the pattern occurs anywhere in the text."""
    return _checked(pattern, text).search(text) is not None


def matches(text: Any, pattern: str) -> bool:
    """Whether the pattern matches the whole text."""
    return _checked(pattern, text).fullmatch(text) is not None


def _checked(pattern: str, text: Any) -> re.Pattern[str]:
    if not isinstance(text, str):
        msg = f"a pattern is matched against a text, not {type(text).__name__}"
        raise TypeError(msg)
    compiled, repeats = _compiled(pattern)
    limit = MAX_TEXT.get(repeats, MAX_TEXT_OTHERWISE)
    if len(text) > limit:
        msg = f"{len(text):,} characters are too many for a pattern with {repeats} open repeats (at most {limit:,})"
        raise ValueError(msg)
    return compiled


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> tuple[re.Pattern[str], int]:
    if len(pattern) > MAX_PATTERN:
        msg = f"a pattern has at most {MAX_PATTERN} characters"
        raise ValueError(msg)
    try:
        compiled = re.compile(pattern)
        return compiled, _open_repeats(re._parser.parse(pattern))  # type: ignore[attr-defined] # noqa: SLF001 - the only parser of patterns there is
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"not a pattern: {error}"
        raise ValueError(msg) from error


def _open_repeats(tree: Any, *, within: bool = False) -> int:
    """How many open repeats a pattern has.

    Raises:
        ValueError: One stands inside another, or around a choice: the time to match could double with every character.
    """
    count = 0
    for operator, argument in tree:
        name = str(operator)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            is_open = int(argument[1]) > MANY
            if within and (is_open or argument[0] != argument[1]):
                msg = "a repeat inside a repeat may never end: simplify the pattern"
                raise ValueError(msg)
            count += is_open + _open_repeats(argument[2], within=within or is_open)
        elif name == "BRANCH":
            if within:
                msg = "a choice inside a repeat may never end: simplify the pattern"
                raise ValueError(msg)
            count += sum(_open_repeats(branch, within=within) for branch in argument[1])
        elif name == "GROUPREF_EXISTS":
            count += sum(_open_repeats(branch, within=within) for branch in argument[1:] if branch)
        elif name in ("SUBPATTERN", "ATOMIC_GROUP", "ASSERT", "ASSERT_NOT"):
            count += _open_repeats(argument if name == "ATOMIC_GROUP" else argument[-1], within=within)
        elif name == "GROUPREF" and within:
            msg = "a back reference inside a repeat may never end: simplify the pattern"
            raise ValueError(msg)
    return count
