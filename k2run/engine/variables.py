"""The names that expressions see while a run goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from k2run.language.expressions import Template, calls, render
from k2run.language.quantities import quantified
from k2run.language.syntax import ABSENT, NoValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


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
        self._extra: dict[str, Any] = quantified(dict(extra))
        self._registered: dict[str, Any] = {}
        self._absent: dict[str, NoValue] = {}
        self._lock = threading.Lock()

    def know(self, facts: Mapping[str, Any]) -> None:
        """Take in the names that the engine gives."""
        self._base.update(facts)

    def enter(self, values: Mapping[str, Any], keep: Callable[[str, Any], Any] = lambda _name, value: value) -> None:
        """Add `vars` of the runbook or of a section; each may use those before it.

        Args:
            values: The variables as written.
            keep: Gives a value that depends on the time as a resumed run has to find it.
        """
        for name, value in values.items():
            if name in self._extra:
                self._base[name] = self._extra[name]
                continue
            made = computed(value, self.names())
            self._base[name] = keep(name, made) if calls(value, "now") else made

    def register(self, values: Mapping[str, Any]) -> None:
        """Keep what a step hands on: registered results, and what `set` sets."""
        with self._lock:
            self._registered = {**self._registered, **values}

    def leave_out(self, names: Iterable[str], why: NoValue) -> None:
        """Names get no value from the step that gives them; they keep those that they have."""
        with self._lock:
            self._absent = {**self._absent, **dict.fromkeys(names, why)}

    def names(self, local: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All names for one expression.

        Args:
            local: Names of the step alone: its `vars`, the loop variable, `result`.
        """
        names = {**self._base, **self._registered, **(local or {}), **self._extra}
        if self._absent:
            names[ABSENT] = self._absent
        return names

    def local(self, step_vars: Mapping[str, Any], **given: Any) -> dict[str, Any]:
        """The step's own names: the given ones and its `vars`, each rendered with those before it."""
        local: dict[str, Any] = dict(given)
        for name, value in step_vars.items():
            local[name] = computed(value, self.names(local))
        return local


def computed(value: Any, names: Mapping[str, Any]) -> Any:
    """What a name stands for: texts that are written as quantities are those; what is computed keeps its type."""
    return render(quantified(value), names)


def loop_items(loop: Any, names: dict[str, Any]) -> list[Any]:
    """What a loop goes over: a list as it is, a mapping as `{key, value}` pairs.

    Raises:
        TypeError: It is neither.
    """
    value = computed(loop, names) if isinstance(loop, Template | tuple) else loop.evaluate(names)
    if isinstance(value, dict):
        return [{"key": key, "value": item} for key, item in value.items()]
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise TypeError(f"a loop needs a list or a mapping, found {value!r}")
    return list(value)
