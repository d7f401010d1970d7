"""How much one expression may make and walk through: enough for any evidence, too little to stop a machine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError
from msgspec import Struct

from k2run.language.quantities import QUANTITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

MAX_WORK = 10_000_000
"""Items and characters of one evaluation, those looked at and those made; less than a second's worth."""
_EACH = 3
"""What it costs to write out an item, beside looking at it."""
_ATOMS = frozenset({int, float, bool, type(None)})
_SIZED = frozenset({str, list, tuple, dict, range})


class _Left(threading.local):
    work = MAX_WORK


_left = _Left()


def refill() -> None:
    """Begin an evaluation."""
    _left.work = MAX_WORK


def spend(work: int) -> None:
    """Take note of work that is about to be done, or was.

    Raises:
        SecurityError: The expression has done enough.
    """
    _left.work -= work
    if _left.work < 0:
        raise SecurityError(f"it makes or walks through more than {MAX_WORK:,} items and characters")


def extent(value: Any, most: int = MAX_WORK) -> int:
    """The items and characters of a value, those inside of it included; counted no further than `most`."""
    found, waiting = 1, [value]
    while waiting and found <= most:
        item = waiting.pop()
        kind = type(item)
        if kind is str or kind is bytes:
            found += len(item)
            continue
        parts = _parts(item)
        found += len(parts)
        if found <= most:  # numbers, which are most of evidence, are done with
            waiting += [part for part in parts if type(part) not in _ATOMS]
    return found


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    return ()


def size(value: Any) -> int:
    """The items or characters of a value, those inside of it left out."""
    return len(value) if type(value) in _SIZED else 0


def counted(work: Callable[..., Any], *, deep: bool = False, each: int = 1, position: int = 0) -> Callable[..., Any]:
    """A filter or test that spends what it walks through and what it makes.

    Args:
        work: The filter; Jinja2's mark for one that wants the environment is kept.
        deep: It walks through everything inside of its value too.
        each: What it costs to look at one item or character.
        position: Where its value stands among the arguments that an expression gives.
    """
    at = position + hasattr(work, "jinja_pass_arg")

    @wraps(work)
    def spending(*args: Any, **named: Any) -> Any:
        value = args[at] if at < len(args) else None
        if type(value) in _ATOMS:
            return work(*args, **named)
        spend(each * size(value) + 1)
        if deep:
            spend(_EACH * extent(value))
        made = work(*args, **named)
        spend(size(made))
        return made

    return spending


def joined(separator: str, values: Iterable[Any]) -> str:
    """The texts of values with a separator between them; nothing is made when it would be too much.

    Raises:
        SecurityError: The expression has done enough.
    """
    texts, work = [], 0
    left, between = _left.work, len(separator) + 1
    for value in values:
        if isinstance(value, str):
            text = value
        else:
            if type(value) not in _ATOMS:
                spend(_EACH * extent(value))
            text = value.exact() if isinstance(value, QUANTITIES) else str(value)
        texts.append(text)
        work += len(text) + between
        if work > left:
            break
    spend(work)
    return separator.join(texts)
