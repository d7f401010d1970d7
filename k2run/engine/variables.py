"""What expressions see while a run lasts: variables, inputs as given, secrets read again from their source."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from k2run.engine.events import UndoPlanned
from k2run.engine.journal import restored
from k2run.errors import StackInvalid, UsageError
from k2run.language.expressions import Template, calls, render
from k2run.language.inputs import input_value
from k2run.language.quantities import QUANTITIES, Duration, quantified
from k2run.language.vocabulary import ABSENT, NoValue
from k2run.stack.redactor import FORMS
from k2run.stack.secrets import MASK, Reference, as_text, as_written, check_long_enough, is_secret, read_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from k2run.engine.events import AnyEvent
    from k2run.language.model import Input, Runbook
    from k2run.stack.stack import Stack


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


def resolve_inputs(runbook: Runbook, extra: Mapping[str, Any], stack: Stack | None = None) -> dict[str, Any]:
    """The value of every input; secrets are read from where they are, and masked from then on.

    Args:
        runbook: Declares them.
        extra: What was given; names that are neither an input nor a variable are refused. A secret is read from
            where it is only for a `Reference`; a text is the secret itself.
        stack: Masks secrets; without one they stay references.

    Raises:
        UsageError: A value is missing, unknown or of the wrong type, or a text names a place to read a secret from.
        StackInvalid: A secret cannot be read.
    """
    declared = {entry.name: entry for entry in runbook.inputs}
    known = {*declared, *runbook.vars, *(name for section in runbook.sections for name in section.vars)}
    for name in extra:
        if name not in known:
            raise UsageError(
                f"{name}: the runbook {runbook.name} has no such input or variable", hint=_nearest(name, known)
            )
    values: dict[str, Any] = {}
    if stack is not None:
        stack.redact.publish(runbook.source)
    for name, entry in declared.items():
        if name not in extra and entry.required:
            raise UsageError(f"the input {name!r} has no value", hint=f"give it with -e {name}=…  ({entry.help})")
        given = extra[name] if name in extra else as_written(entry.default)
        if given is None and name not in extra:
            values[name] = None
        elif entry.type == "secret" and stack is not None:
            values[name] = _reveal(name, given, runbook, stack)
        else:
            values[name] = convert(entry, given)
    return values


def restore_inputs(
    runbook: Runbook, recorded: Mapping[str, Any], extra: Mapping[str, Any], stack: Stack
) -> dict[str, Any]:
    """The inputs of a run that goes on: as its journal has them, and secrets, which it does not have, once more.

    Raises:
        UsageError: A secret was given by hand and must be given again.
    """
    declared = {entry.name: entry for entry in runbook.inputs}
    secrets = {name for name, entry in declared.items() if entry.type == "secret"}
    for name in secrets:
        if recorded.get(name) is not None and name not in extra and _default(runbook, name) is None:
            raise UsageError(f"the secret input {name!r} is not kept with the run", hint=f"give it again: -e {name}=…")
    known = {
        name: recorded_input(declared[name], value) if name in declared else value
        for name, value in recorded.items()
        if name not in secrets and value is not None
    }
    given = {name: value for name, value in extra.items() if name in secrets}
    return resolve_inputs(runbook, {**known, **given}, stack)


def recorded_input(entry: Input, value: Any) -> Any:
    """An input as its run had it, from what its journal has: a duration of older journals is a number of seconds."""
    if value is None:
        return None
    return Duration(value) if entry.type == "duration" and isinstance(value, int | float) else convert(entry, value)


def shown_inputs(runbook: Runbook, values: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as a journal may have them: of a secret only that there is one."""
    secrets = {entry.name for entry in runbook.inputs if entry.type == "secret"}
    shown = {name: MASK if name in secrets and value is not None else value for name, value in values.items()}
    return {name: value.exact() if isinstance(value, QUANTITIES) else value for name, value in shown.items()}


def shown_extra(runbook: Runbook, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What was given with `-e` as a journal may have it: a secret only by where it is."""
    secrets = {entry.name for entry in runbook.inputs if entry.type == "secret"}
    return {
        name: as_text(value) for name, value in extra.items() if name not in secrets or isinstance(value, Reference)
    }


def recorded_extra(runbook: Runbook, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What `shown_extra` has kept, as it was given: only what an operator wrote stands there for a secret."""
    secrets = {entry.name for entry in runbook.inputs if entry.type == "secret"}
    return {name: as_written(value) if name in secrets else value for name, value in recorded.items()}


def _default(runbook: Runbook, name: str) -> Any:
    return next(entry.default for entry in runbook.inputs if entry.name == name)


def _reveal(name: str, given: Any, runbook: Runbook, stack: Stack) -> str:
    """The secret itself, which no record will show."""
    if isinstance(given, Reference):
        secret, source = read_secret(given.text, near=Path(runbook.home)), given.text
    else:
        secret, source = str(given), f"{BY_HAND}{name}"
        check_long_enough(secret, f"given for the input {name!r}")
        if is_secret(secret):
            raise UsageError(
                f"the secret input {name!r} was given the name of a place ({secret.partition(':')[0]}:…) as its value",
                hint="a place is read only from the default in the runbook or from `-e` on a terminal",
            )
    stack.redact.add(secret, source)
    return secret


def convert(entry: Input, value: Any) -> Any:
    """A value as one of the declared type.

    Raises:
        UsageError: It does not fit.
    """
    value = as_text(value)
    try:
        return input_value(entry, value)
    except ValueError as error:
        raise UsageError(f"the input {entry.name}={value}: {error}", hint=entry.help) from error


def _nearest(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known)) or 'none'}"


T = TypeVar("T")

BY_HAND = "input:"


class Sources:
    """Where the secrets of a run are read again.

    Args:
        text: The text of the runbook that was run.
        home: The folder that paths in it start from.
        stack: What it was run on.
        given: Inputs that are known: those of a run that goes on, or given with `-e`.
    """

    def __init__(self, text: str, home: str | Path, stack: Stack, given: Mapping[str, Any]) -> None:
        self._text = text
        self._home = Path(home)
        self._stack = stack
        self._given = given

    def restored(self, value: T, secrets: Mapping[str, tuple[str, str]]) -> T:
        """A value of an event with its secrets.

        Raises:
            UsageError: A secret that was given by hand must be given again.
            StackInvalid: A secret cannot be read.
        """
        if not secrets:
            return value
        texts = {stand_in: FORMS[form](self._read(source)) for stand_in, (source, form) in secrets.items()}
        back: T = restored(value, texts)
        return back

    def recalled(self, events: Iterable[AnyEvent]) -> list[AnyEvent]:
        """Events as a run that goes on works with them; undos keep their references until they are played."""
        return [self._recalled(event) if event.secrets else event for event in events]

    def _recalled(self, event: AnyEvent) -> AnyEvent:
        if isinstance(event, UndoPlanned):
            return event
        return replace(event, **{field: self.restored(getattr(event, field), event.secrets) for field in event.kept})

    def _read(self, source: str) -> str:
        secret = self._find(source)
        self._stack.redact.add(secret, source, remark=False)
        return secret

    def _find(self, source: str) -> str:
        if source.startswith(BY_HAND):
            name = source.removeprefix(BY_HAND)
            given = self._given.get(name)
            if given is None:
                raise UsageError(
                    f"the secret input {name!r} is not kept with the run", hint=f"give it again: -e {name}=…"
                )
            return read_secret(given.text, near=self._home) if isinstance(given, Reference) else str(given)
        here = self._stack.mentions(source)
        if source.startswith("cmd:") and not here and source not in self._text:
            raise StackInvalid(
                f"the secret {source} stands neither in the stack file nor in the runbook",
                hint="a command is run only where one of them names it",
            )
        near = self._stack.path.absolute().parent if here else self._home
        return read_secret(source, near=near)
