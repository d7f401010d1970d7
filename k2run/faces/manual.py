"""Describes actions on the terminal, from their signatures and docstrings."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.actions.catalogue import Action, Catalogue
from k2run.errors import UsageError
from k2run.faces.authoring.example import example_of
from k2run.language.schema import described_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msgspec.structs import FieldInfo


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
    """Everything there is to know about an action, with an example."""
    lines = [f"{action.name}  ({action.effect.value})", "", action.doc, "", "Arguments"]
    fields = msgspec.structs.fields(action.arguments)
    lines += [f"  {entry.encode_name}: {_kind(entry.type)}  ({_default(entry)})" for entry in fields] or ["  none"]
    results = list(result_rows(action))
    if results:
        lines += ["", f"Result: {action.result.__name__}"]
        lines += [f"  {name.strip('`')}: {kind.strip('`')}" for name, kind in results]
    needs = [connection.key for connection in action.connections if connection.key]
    if needs:
        lines += ["", f"Needs of the stack: {', '.join(needs)}"]
    lines += ["", "Example", indent(example_of(action), "  ")]
    return "\n".join(lines)


def argument_rows(action: Action) -> list[tuple[str, str, str, str]]:
    """The arguments of an action: name, type, default, meaning."""
    words = described_arguments(action.doc)
    return [
        (f"`{entry.encode_name}`", f"`{_kind(entry.type)}`", _default(entry), words.get(entry.encode_name, ""))
        for entry in msgspec.structs.fields(action.arguments)
    ]


def result_rows(action: Action) -> list[tuple[str, str]]:
    """The fields of an action's result: name and type."""
    result = action.result
    if not (isinstance(result, type) and issubclass(result, msgspec.Struct)):
        return []
    return [(f"`result.{entry.encode_name}`", f"`{_kind(entry.type)}`") for entry in msgspec.structs.fields(result)]


def _catalogue(actions: Iterable[Action]) -> str:
    rows = [(action.name, action.effect.value, action.summary) for action in actions]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {effect.ljust(8)}  {summary}" for name, effect, summary in rows)


def _kind(kind: Any) -> str:
    if not hasattr(kind, "__args__"):
        return str(getattr(kind, "__name__", kind))
    return str(kind).replace("typing.", "").replace("k2run.language.quantities.", "")


def _default(entry: FieldInfo) -> str:
    if entry.required:
        return "required"
    if entry.default is msgspec.NODEFAULT:
        return "empty by default"
    return f"{entry.default!r} by default"
