"""The names that an expression may use at its place in a runbook, with what is known of their types."""

from __future__ import annotations

from typing import Any

FACTS = ("stack", "run", "figures")
"""Names that the engine gives to every expression."""

RESERVED = frozenset({*FACTS, "result", "attempt", "self", "true", "false", "none", "True", "False", "None"})
"""Names that a runbook cannot give to its own values."""


class Scope:
    """Names and their types: those that all later steps see too, and those of one step alone.

    Args:
        shared: Inputs, variables and registered results; grows as steps are read.
        own: Names of the step: its variables, the loop variable, `result`.
    """

    __slots__ = ("own", "shared")

    def __init__(self, shared: dict[str, Any], own: dict[str, Any] | None = None) -> None:
        self.shared = shared
        self.own = own or {}

    def knows(self, name: str) -> bool:
        """Whether the name can be used."""
        return name in self.own or name in self.shared

    def shape(self, name: str) -> Any:
        """The type of a known name."""
        return self.own[name] if name in self.own else self.shared[name]

    def names(self) -> list[str]:
        """Every name, for suggestions."""
        return [*self.own, *self.shared]

    def inside(self, names: dict[str, Any]) -> Scope:
        """This scope with more names of the step."""
        return Scope(self.shared, {**self.own, **names}) if names else self

    def apart(self) -> Scope:
        """A scope whose shared names no longer reach this one: for steps that run at once."""
        return Scope(dict(self.shared), self.own)
