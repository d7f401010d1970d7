"""Describes actions on the terminal, from their signatures and docstrings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from k2run.actions.catalogue import Action, Catalogue
from k2run.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def show_actions(name: str) -> None:
    """Show one action in full, an adapter's actions, or all of them with a line each."""
    catalogue = Catalogue()
    action = catalogue.find(name) if "." in name else None
    if action is not None:
        print(page(action))
        return
    fitting = [entry for entry in catalogue.all() if not name or entry.name.partition(".")[0] == name]
    if not fitting:
        from k2run.language.problems import did_you_mean

        hint = did_you_mean(name, [*catalogue.names(), *catalogue.adapters()])
        raise UsageError(f"there is no action or adapter {name!r}", hint=hint or "`k2run doc` lists all")
    print(_catalogue(fitting))


def page(action: Action) -> str:
    """Everything there is to know about an action."""
    lines = [f"{action.name}  ({action.effect.value})", "", action.doc, "", "Arguments"]
    fields = msgspec.structs.fields(action.arguments)
    lines += [f"  {entry.encode_name}: {_kind(entry.type)}{_default(entry)}" for entry in fields] or ["  none"]
    result = action.result
    if isinstance(result, type) and issubclass(result, msgspec.Struct):
        lines += ["", f"Result: {result.__name__}"]
        lines += [f"  result.{entry.encode_name}: {_kind(entry.type)}" for entry in msgspec.structs.fields(result)]
    if action.connections:
        lines += ["", "Needs of the stack: " + ", ".join(connection.key for connection in action.connections)]
    return "\n".join(lines)


def _catalogue(actions: Iterable[Action]) -> str:
    rows = [(action.name, action.effect.value, action.summary) for action in actions]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {effect.ljust(8)}  {summary}" for name, effect, summary in rows)


def _kind(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if not hasattr(kind, "__args__") else str(kind).replace("typing.", "")


def _default(entry: msgspec.structs.FieldInfo) -> str:
    if entry.required:
        return "  (required)"
    if entry.default is msgspec.NODEFAULT:
        return "  (empty by default)"
    return f"  ({entry.default!r} by default)"
