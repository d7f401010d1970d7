"""What of a result is not known: the middle of a text that was cut, and what could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.language.syntax import ITEM

if TYPE_CHECKING:
    from k2run.language.syntax import Reference

_SHORTEST = 4_000
"""Characters; no shorter text was ever cut."""
_MOST = 10_000
"""Items of a list that are checked."""
_SIGN = " bytes left out …\n"


def gap(left_out: int) -> str:
    """What stands for the middle of a text that was cut."""
    return f"\n… {left_out:,}{_SIGN}"


def unseen_in(references: Iterable[Reference], scope: Mapping[str, Any]) -> str:
    """Why the first reference that is not known is not: its text was cut, or could not be read; empty when all are."""
    for reference in references:
        why = "" if reference.called else _why(reference, scope)
        if why:
            written = ".".join((reference.name, *reference.path)).replace(f".{ITEM}", ITEM)
            return f"`{written}` {why}"
    return ""


def _why(reference: Reference, scope: Mapping[str, Any]) -> str:
    """Of a list that is subscripted, any item may be meant."""
    found = [scope.get(reference.name)]
    for step in reference.path:
        if step == ITEM:
            found = [item for value in found for item in _items(value)]
            continue
        owners = [value for value in found if isinstance(value, Struct | Mapping)]
        unread = next(filter(None, (_field(owner, f"{step}_error") for owner in owners)), "")
        if unread and isinstance(unread, str) and all(_field(owner, step) is None for owner in owners):
            return f"could not be read: {unread}"
        found = [_field(owner, step) for owner in owners]
    return "was cut: only its beginning and its end were kept" if any(map(_is_cut, found)) else ""


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value[:_MOST]
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, Struct):
        yield from (getattr(value, name) for name in value.__struct_fields__)


def _field(owner: Any, name: str) -> Any:
    return owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)


def _is_cut(value: Any) -> bool:
    """Whether a text was cut, or a result of which a text was, or one of several such results."""
    if isinstance(value, str):
        return len(value) >= _SHORTEST and _SIGN in value
    if isinstance(value, list | tuple):
        return any(_is_result(item) and _is_cut(item) for item in value[:_MOST])
    return _is_result(value) and any(isinstance(item, str) and _is_cut(item) for item in _items(value))


def _is_result(value: Any) -> bool:
    return isinstance(value, Struct | Mapping) and bool(_field(value, "truncated"))
