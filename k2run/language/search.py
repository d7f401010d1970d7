"""Looks through a document for where a name is given, to explain why it is not known elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from k2run.language.document import Trail

MAX_VISITS = 100_000


def registration(data: Any, name: str) -> Trail:
    """The path of the first `register: name` (or `set: {name: …}`), or () when there is none."""
    waiting: list[tuple[Any, Trail]] = [(data, ())]
    for _ in range(MAX_VISITS):
        if not waiting:
            break
        value, path = waiting.pop()
        if isinstance(value, dict):
            if value.get("register") == name:
                return (*path, "register")
            if isinstance(value.get("set"), dict) and name in value["set"]:
                return (*path, "set", name)
            waiting += [(item, (*path, key)) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(item, (*path, index)) for index, item in reversed(list(enumerate(value)))]
    return ()
