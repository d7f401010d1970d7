"""Takes secrets out of the texts of an event, and brings back those that are kept by reference to their source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import replace

from k2run.engine.events import UndoPlanned
from k2run.errors import AuthorError, StackInvalid, UsageError
from k2run.language.quantities import encode_quantity
from k2run.stack.redactor import FORMS
from k2run.stack.secrets import Reference, read_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from k2run.engine.events import AnyEvent, Event
    from k2run.stack.redactor import Redactor
    from k2run.stack.stack import Stack

T = TypeVar("T")
E = TypeVar("E", bound="Event")

BY_HAND = "input:"


def masked(event: E, redact: Redactor, *, ours: bool = False) -> E:
    """An event without secrets; the same object when it holds none.

    Args:
        event: What happened.
        redact: Knows the secrets.
        ours: Its words are k2run's own: an ordinary word stays.

    Raises:
        AuthorError: An undo would be kept without its secret, so that it could not be played after a crash.
    """
    made: dict[str, Any] = {}
    secrets: dict[str, tuple[str, str]] = {}
    for field, names in event.said.items():
        if value := getattr(event, field):
            made[field] = redact.clean_names(value) if ours else redact.clean(value, names)
    for field in event.compared:
        if value := getattr(event, field):
            made[field] = redact.clean_names(value)
    for field, names in event.kept.items():
        if value := getattr(event, field):
            made[field] = redact.refer(value, secrets, names)
    changed = {field: value for field, value in made.items() if value != getattr(event, field)}
    if not changed:
        return event
    if isinstance(event, UndoPlanned):
        _check_kept(plain(event.args), made["args"], secrets, redact)
    return replace(event, **changed, secrets=secrets)


def plain(value: Any) -> Any:
    """A value as it is read from a journal."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=encode_quantity))


def _check_kept(args: Any, kept: Any, secrets: Mapping[str, tuple[str, str]], redact: Redactor) -> None:
    """Refuse a fault whose undo could be played from memory alone: after a crash it could not be."""
    texts = {secret.source: secret.text for secret in redact.secrets}
    if restored(kept, {stand_in: FORMS[form](texts[source]) for stand_in, (source, form) in secrets.items()}) != args:
        raise AuthorError(
            "the undo of this fault would hold a secret in a form that cannot be read again after a crash",
            hint="the fault was not injected; give it the secret as a whole value",
        )


def restored(value: Any, texts: Mapping[str, str]) -> Any:
    """A value with the secrets back in their places.

    Args:
        value: As a journal keeps it.
        texts: What is put back, by what stands for it.
    """
    if isinstance(value, str):
        for stand_in in sorted(texts, key=len, reverse=True):  # the first of ten is a part of the tenth
            value = value.replace(stand_in, texts[stand_in])
        return value
    if isinstance(value, dict):
        return {key: restored(entry, texts) for key, entry in value.items()}
    return [restored(entry, texts) for entry in value] if isinstance(value, list) else value


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
