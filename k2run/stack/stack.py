"""A stack: the services and connections of one environment, each read from its file when it is asked for."""

from __future__ import annotations

import re
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.errors import K2runError, RunbookInvalid, StackInvalid, UsageError
from k2run.files import checked_name
from k2run.language.document import read_file
from k2run.language.inputs import SECRET_SOURCES
from k2run.language.problems import Problem, did_you_mean
from k2run.language.quantities import decode_quantity
from k2run.language.references import ENDINGS, folders, own_stack_files, stack_files
from k2run.stack.model import PREFIX, Chart, Roles, RunBy, Service, missing_program, role_of
from k2run.stack.redactor import SHOWN, Redactor
from k2run.stack.secrets import TooShort, check_long_enough, is_secret, may_name_a_secret, read_at_hand, read_secret
from k2run.stack.templates import LazyValues, MissingValue, Renderer, env
from k2run.stack.validation import (
    connection_problems,
    fault_problems,
    file_problems,
    place_of,
    problems_of,
    program_problems,
    with_texts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from k2run.actions.connection import Connection
    from k2run.language.document import Document, Trail

_READING = object()


class Stack:
    """One environment. Nothing in it is filled in, and no secret read, before it is used.

    Args:
        document: The stack file, checked.
        path: Where it is.
        home: The `.k2run` folder.
        overrides: Values of `vars` that win over the file's.
        read: Reads a secret by its reference.

    Attributes:
        title: What people call it.
        platform: What it is a stack of, such as `k2`; empty when it does not say.
        protected: Faults and destructive actions are refused here, unless the runbook is in `allow`.
        allow: Names of runbooks that may break it although it is protected.
        faults: The faults that may be injected here, as patterns of names of actions; any when None.
        compose: The compose file that makes its containers; None when they are made elsewhere.
        data_path: The runbook whose steps show that data flows from end to end; None where none is declared.
        state: Its state folder, absolute: logs, pids, and what its services keep.
        redact: Takes the secrets read so far out of a text.
        services: Its services by name.
        roles: What plays each part that runbooks ask for.
    """

    def __init__(
        self,
        document: Document,
        path: Path,
        home: Path,
        overrides: Mapping[str, str],
        read: Callable[..., str] = read_secret,
    ) -> None:
        data = document.data
        self.name: str = data.get("name", path.stem)
        self.path = path
        self.title: str = data.get("title", self.name)
        self.platform: str = data.get("platform", "")
        self.protected: bool = data.get("protected", False)
        self.allow: tuple[str, ...] = tuple(data.get("allow", ()))
        self.faults: tuple[str, ...] | None = tuple(data["faults"]) if "faults" in data else None
        self.compose = (path.absolute().parent / data["compose"]).resolve() if "compose" in data else None
        self.data_path = (path.absolute().parent / data["data_path"]).resolve() if "data_path" in data else None
        self.state = home.absolute() / "stacks" / checked_name(self.name, "a stack")
        self.redact = Redactor(document.text, SHOWN)
        self.services: Mapping[str, Service] = LazyValues(data.get("services") or {}, self._service)
        declared: dict[str, Any] = data.get("roles") or {}
        self.roles = Roles(self.name, declared, lambda role: self._role(role, declared[role]))
        self._document = document
        self._vars: dict[str, Any] = {**(data.get("vars") or {}), **overrides}
        self._connections: dict[str, Any] = data.get("connections") or {}
        self._overrides = overrides
        self._home = home
        self._read_secret = read
        self._known: dict[Trail, Any] = {}
        self._learned = False
        self._lock = threading.RLock()
        self._renderer = Renderer(self._look_up)

    def __repr__(self) -> str:
        return f"Stack({self.name!r}, {str(self.path)!r})"

    def settings(self, key: str) -> Mapping[str, Any] | None:
        """The settings under `connections: {key: …}`, filled in; None when the stack has none.

        Raises:
            StackInvalid: A value cannot be filled in, or a secret is missing.
        """
        if key not in self._connections:
            return None
        settings: Mapping[str, Any] = self._read(("connections", key), self._connections[key])
        return settings

    @property
    def charts(self) -> list[Chart]:
        """What its page shows over time.

        Raises:
            StackInvalid: A value cannot be filled in.
        """
        declared = self._document.data.get("charts") or []
        return [msgspec.convert(self._read(("charts", index), form), Chart) for index, form in enumerate(declared)]

    @property
    def connections(self) -> tuple[str, ...]:
        """The keys under `connections:`."""
        return tuple(self._connections)

    def mentions(self, reference: str) -> bool:
        """Whether the file says where this secret is."""
        return reference in self._document.text

    def absent(self, name: str) -> str:
        """Why there is no such service (or connection, or `roles.NAME`) here; empty when there is one.

        The one rule of absence: what this gives a reason for is not applicable, whoever asks. A service is absent when
        the stack does not declare it, or when its program is missing on this machine and it does not run. A connection
        is absent with the service that it belongs to.
        """
        if name in self.services:
            return self._missing(self.services[name])
        if name.startswith(PREFIX):
            return self.roles.missing(name.removeprefix(PREFIX))
        if name not in self._connections:
            near = did_you_mean(name, [*self.services, *self._connections])
            return f"the stack {self.name!r} has no {name}{near and f'; {near}'}"
        return self.unusable(name)

    def needed(self, names: Iterable[str]) -> list[str]:
        """These services, and whatever they need, directly or not; each once."""
        found = [*dict.fromkeys(names)]
        for service in found:  # it grows meanwhile
            found += [name for name in dict.fromkeys(self.services[service].needs) if name not in found]
        return found

    def unusable(self, connection: str) -> str:
        """Why nothing can answer on a declared connection: the service that it belongs to is absent; mostly empty."""
        declared: Mapping[str, Any] = self._document.data.get("services") or {}
        mays = [name for name, written in declared.items() if written.keys() & {"program", "package"}]
        for name in mays:  # others are never absent
            reason = self._missing(self.services[name])
            if reason and (name == connection or self._is_at(connection, self.services[name])):
                return reason
        return ""

    def _missing(self, service: Service) -> str:
        reason = missing_program(service)
        if not reason:
            return ""
        from k2run.stack.processes import ProcessBackend

        return "" if ProcessBackend(service, self.state).runs() else reason

    def _is_at(self, connection: str, service: Service) -> bool:
        """Whether a connection leads to a port of a service; its process listens on this machine."""
        settings = str(self.settings(connection) or "")
        return any(re.search(rf"(?:127\.0\.0\.1|localhost|\[::1\]):{port}\b", settings) for port in service.ports)

    def facts(self) -> Mapping[str, Any]:
        """What expressions see as `stack`: `name`, `title`, `services.NAME.url` (or ports, metrics, …), `vars.NAME`."""
        whole: dict[str, Callable[[], Any]] = {
            "name": lambda: self.name,
            "title": lambda: self.title,
            "state": lambda: str(self.state),
            "services": lambda: LazyValues(self.services, lambda name: self.services[name].facts()),
            "connections": lambda: LazyValues(self._connections, self.settings),
            "vars": lambda: LazyValues(self._vars, self._look_up),
        }
        return LazyValues(whole, lambda key: whole[key]())

    def check(self, kinds: Mapping[str, type[Connection]] | None = None, faults: Collection[str] = ()) -> list[Problem]:
        """Fill in everything, as `validate` does; what cannot be filled in, or is not there, is a problem at its place.

        No secret is read, and what only this machine lacks (an environment variable) is no problem of the file.

        Args:
            kinds: The connections that actions ask for, by their key; without them connections are not checked.
            faults: The names of all faults; without any those that the stack allows are not checked.
        """
        trial = Stack(self._document, self.path, self._home, self._overrides, lambda *_, **__: "unread")
        problems: list[Problem] = []
        for read in trial._readings():
            try:
                read()
            except MissingValue as error:
                if not error.missing:
                    problems.append(self._document.problem("K404", error.said, error.trail, hint=error.hint))
        problems += file_problems(self._document, self.path)
        problems += connection_problems(self._document, kinds) if kinds is not None else ()
        problems += fault_problems(self._document, faults) if faults else ()
        for name in self.services:
            with suppress(StackInvalid):
                problems += program_problems(self._document, self.path, trial.services[name], trial.state)
        return list(dict.fromkeys(problems))  # a wrong variable is met wherever it is used

    def learn(self) -> None:
        """Read what secrets can be read without running anything, so that they are known in what services say."""
        with self._lock:
            if self._learned:
                return
            self._learned = True
            read_quietly = partial(read_at_hand, self._read_secret)
            trial = Stack(self._document, self.path, self._home, self._overrides, read_quietly)
            trial.redact = self.redact
            for read in trial._readings():
                with suppress(K2runError):
                    read()

    def _readings(self) -> Iterator[Callable[[], Any]]:
        for name in self._vars:
            yield partial(self._look_up, name)
        for key in self._connections:
            yield partial(self.settings, key)
        for name in self.services:
            yield partial(self.services.__getitem__, name)
        for name in self.roles:
            yield partial(self.roles.__getitem__, name)
        yield lambda: self.charts

    # --- reading ----------------------------------------------------------------------------------

    def _service(self, name: str) -> Service:
        def converted(filled: Any) -> Service:
            form = {**with_texts(filled), "name": name}
            service = msgspec.convert(form, Service, dec_hook=decode_quantity, strict=False)
            return msgspec.structs.replace(service, run=RunBy.EXTERNAL) if service.elsewhere else service

        found: Service = self._read(("services", name), self._document.data["services"][name], converted)
        return found

    def _role(self, name: str, raw: Any) -> Any:
        return self._read(("roles", name), raw, partial(role_of, name))

    def _read(self, trail: Trail, raw: Any, convert: Callable[[Any], Any] = lambda filled: filled) -> Any:
        """A value filled in and converted, once."""
        with self._lock:
            if trail not in self._known:
                filled = self._fill(trail, raw)
                try:
                    self._known[trail] = convert(filled)
                except msgspec.ValidationError as error:
                    said, at = place_of(error, trail)
                    raise MissingValue(self._document.place(at), at, StackInvalid(said)) from None
            return self._known[trail]

    def _look_up(self, name: str) -> Any:
        """The value of a name in `{{ }}`."""
        builtins: dict[str, Any] = {
            "state": str(self.state),
            "here": str(self.path.absolute().parent),
            "python": sys.executable,
            "env": env,
            "secret": self._secret,
        }
        if name in self._overrides:
            return self._overrides[name]
        if name not in self._vars:
            if name in builtins:
                return builtins[name]
            known = [*self._vars, "state", "here", "python", "env", "secret"]
            raise StackInvalid(f"{name!r} is not defined", hint=did_you_mean(name, known) or "add it to `vars:`")
        trail = ("vars", name)
        with self._lock:
            if self._known.get(trail) is _READING:
                raise StackInvalid(f"the variable {name!r} is defined by itself", hint="break the circle")
            if trail not in self._known:
                self._known[trail] = _READING
                try:
                    self._known[trail] = self._fill(trail, self._vars[name])
                finally:
                    if self._known[trail] is _READING:
                        del self._known[trail]
            return self._known[trail]

    def _fill(self, trail: Trail, raw: Any) -> Any:
        """A raw value with its templates filled in and its secrets read."""
        if isinstance(raw, dict):
            return {key: self._fill((*trail, key), entry) for key, entry in raw.items()}
        if isinstance(raw, list):
            return [self._fill((*trail, index), entry) for index, entry in enumerate(raw)]
        if not isinstance(raw, str):
            return raw
        try:
            value = self._renderer.render(raw)
            # as written: what a template brings in is a value, and a secret may look like anything
            refers = raw.startswith(SECRET_SOURCES) and may_name_a_secret(trail)
            return self._secret(value) if refers and isinstance(value, str) and is_secret(value) else value
        except MissingValue:
            raise  # a variable that this value needs has its own place
        except StackInvalid as error:
            raise MissingValue(self._document.place(trail), trail, error) from error.__cause__

    def _secret(self, reference: str, default: str | None = None) -> str:
        """What `secret('env:NAME', 'default')` gives in a template; masked from now on, the default too."""
        try:
            value, is_default = self._read_secret(reference, near=self.path.absolute().parent), False
        except TooShort:
            raise
        except StackInvalid:
            if default is None:
                raise
            value, is_default = str(default), True
        if value:
            check_long_enough(value, f"the default of {reference}" if is_default else reference)
        self.redact.add(value, reference, remark=not is_default)  # of a default, anybody can read it in the file
        return value


__all__ = ["Stack", "find_stack", "load_stack", "own_stack_files", "stack_files"]


def load_stack(reference: str, *, near: Path | None, home: Path, overrides: Mapping[str, str]) -> Stack:
    """Read a stack file and check its form; nothing in it is filled in yet.

    Args:
        reference: The path of a stack file, or its name.
        near: The runbook (or its folder) from which a name is looked for; the working directory when None.
        home: The `.k2run` folder.
        overrides: Values of the stack's `vars` that win over its file.

    Raises:
        StackInvalid: There is no such stack, or it cannot be read.
        RunbookInvalid: The file has problems, each with its location.
        UsageError: An override names no variable of the stack.
    """
    path = find_stack(reference, near)
    try:
        document = read_file(path)
    except UsageError as error:
        raise StackInvalid(error.message, hint=error.hint) from error
    problems = problems_of(document)
    if problems:
        raise RunbookInvalid(problems)
    declared = document.data.get("vars") or {}
    for name in overrides:
        if name not in declared:
            raise UsageError(
                f"the stack {path.stem!r} has no variable {name!r}",
                hint=did_you_mean(name, declared) or f"it has {', '.join(declared) or 'none'}",
            )
    return Stack(document, path, home, overrides)


def find_stack(reference: str, near: Path | None) -> Path:
    """The file of a stack.

    Raises:
        StackInvalid: There is none; the message names the nearest one.
    """
    if "/" in reference or reference.endswith(ENDINGS):
        path = Path(reference)
        if path.is_file():
            return path
        raise StackInvalid(f"there is no stack file {reference}", hint=_nearest(path.stem, stack_files(near)))
    known = stack_files(near)
    if reference not in known:
        looked = ", ".join(map(str, dict.fromkeys(folders(near)))) or "nowhere"
        raise StackInvalid(f"there is no stack {reference!r}", hint=_nearest(reference, known) or f"looked in {looked}")
    return known[reference]


def _nearest(name: str, known: Mapping[str, Path]) -> str:
    return did_you_mean(name, known) or (f"there are {', '.join(known)}" if known else "")
