"""The names that expressions see while a run goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from k2run.language.expressions import Template, render

if TYPE_CHECKING:
    from collections.abc import Mapping


class Variables:
    """Inputs, variables and registered results of one run.

    What is closer to the step wins: runbook `vars`, then section `vars`, then registered results, then step `vars`
    and the loop variable; `-e` wins over all `vars`.

    Args:
        facts: Names of the engine: `stack`, `run`, `figures`.
        inputs: Values of the runbook's inputs.
        extra: Values given with `-e`.
    """

    def __init__(self, facts: Mapping[str, Any], inputs: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        self._base: dict[str, Any] = {**facts, **inputs}
        self._extra = dict(extra)
        self._registered: dict[str, Any] = {}
        self._lock = threading.Lock()

    def know(self, facts: Mapping[str, Any]) -> None:
        """Take in the names that the engine gives."""
        self._base.update(facts)

    def enter(self, values: Mapping[str, Any]) -> None:
        """Add `vars` of the runbook or of a section; each may use those before it."""
        for name, value in values.items():
            self._base[name] = self._extra[name] if name in self._extra else render(value, self.names())

    def register(self, values: Mapping[str, Any]) -> None:
        """Keep what a step hands on: registered results, and what `set` sets."""
        with self._lock:
            self._registered = {**self._registered, **values}

    def names(self, local: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All names for one expression.

        Args:
            local: Names of the step alone: its `vars`, the loop variable, `result`.
        """
        return {**self._base, **self._registered, **(local or {}), **self._extra}

    def local(self, step_vars: Mapping[str, Any], **given: Any) -> dict[str, Any]:
        """The step's own names: the given ones and its `vars`, each rendered with those before it."""
        local: dict[str, Any] = dict(given)
        for name, value in step_vars.items():
            local[name] = render(value, self.names(local))
        return local


def loop_items(loop: Any, names: dict[str, Any]) -> list[Any]:
    """What a loop goes over: a list as it is, a mapping as `{key, value}` pairs.

    Raises:
        TypeError: It is neither.
    """
    value = render(loop, names) if isinstance(loop, Template | tuple) else loop.evaluate(names)
    if isinstance(value, dict):
        return [{"key": key, "value": item} for key, item in value.items()]
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise TypeError(f"a loop needs a list or a mapping, found {value!r}")
    return list(value)
