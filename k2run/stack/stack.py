"""A stack: the services and connections of one environment, each read from its file when it is asked for."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.errors import StackInvalid
from k2run.language.problems import Problem, did_you_mean
from k2run.language.quantities import decode_quantity
from k2run.stack.form import place_of, with_texts
from k2run.stack.model import RunBy, Service
from k2run.stack.redactor import Redactor
from k2run.stack.secrets import is_secret, read_secret
from k2run.stack.templates import Missing, Renderer, env

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.language.document import Document, Trail
    from k2run.language.place import Place

_SECRET_MARK = re.compile(r"\b(?:env|file|keyring|cmd):(?!//)\S|\bsecret\s*\(")
_READING = object()


class Stack:
    """One environment. Nothing in it is filled in, and no secret read, before somebody asks for it.

    Args:
        document: The stack file, checked.
        path: Where it is.
        home: The `.k2run` folder.
        overrides: Values of `vars` that win over the file's.
        read: Reads a secret by its reference.

    Attributes:
        name: Its name.
        path: Its file.
        title: What people call it.
        protected: Faults and destructive actions are refused here, unless the runbook is in `allow`.
        allow: Names of runbooks that may break it although it is protected.
        compose: The compose file that makes its containers; None when they are made elsewhere.
        state: Its state folder, absolute: logs, pids, and what its services keep.
        redact: Takes the secrets read so far out of a text.
        services: Its services by name.
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
        self.protected: bool = data.get("protected", False)
        self.allow: tuple[str, ...] = tuple(data.get("allow", ()))
        self.compose = (path.absolute().parent / data["compose"]).resolve() if "compose" in data else None
        self.state = home.absolute() / "stacks" / self.name
        self.redact = Redactor()
        self.has_secrets = _SECRET_MARK.search(document.text) is not None
        self.services: Mapping[str, Service] = Lazily(data.get("services") or {}, self._service)
        self._document = document
        self._vars: dict[str, Any] = {**(data.get("vars") or {}), **overrides}
        self._connections: dict[str, Any] = data.get("connections") or {}
        self._overrides = overrides
        self._home = home
        self._read_secret = read
        self._known: dict[Trail, Any] = {}
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

    def absent(self, name: str) -> str:
        """Why this stack has no such service (or connection); empty when it has one."""
        if name in self._connections:
            return ""
        if name not in self.services:
            return f"the stack {self.name!r} has no {name}"
        return missing_program(self.services[name])

    def facts(self) -> Mapping[str, Any]:
        """What expressions see as `stack`: `name`, `title`, `services.NAME.url` (or ports, metrics, …), `vars.NAME`."""
        whole: dict[str, Callable[[], Any]] = {
            "name": lambda: self.name,
            "title": lambda: self.title,
            "state": lambda: str(self.state),
            "services": lambda: Lazily(self.services, lambda name: _seen(self.services[name])),
            "connections": lambda: Lazily(self._connections, self.settings),
            "vars": lambda: Lazily(self._vars, self._look_up),
        }
        return Lazily(whole, lambda key: whole[key]())

    def check(self) -> list[Problem]:
        """Fill in everything, as `validate` does; what cannot be is a problem at its place.

        No secret is read, and what only this machine lacks (an environment variable) is no problem of the file.
        """
        trial = Stack(self._document, self.path, self._home, self._overrides, lambda *_, **__: "unread")
        problems: list[Problem] = []
        for read in trial._readings():
            try:
                read()
            except NotFilled as error:
                if not error.missing:
                    problems.append(self._document.problem("K404", error.said, error.trail, hint=error.hint))
        return list(dict.fromkeys(problems))  # a wrong variable is met wherever it is used

    def _readings(self) -> Iterator[Callable[[], Any]]:
        for name in self._vars:
            yield partial(self._look_up, name)
        for key in self._connections:
            yield partial(self.settings, key)
        for name in self.services:
            yield partial(self.services.__getitem__, name)

    # --- reading ----------------------------------------------------------------------------------

    def _service(self, name: str) -> Service:
        trail = ("services", name)
        with self._lock:
            if trail not in self._known:
                filled = with_texts(self._fill(trail, self._document.data["services"][name]))
                try:
                    service = msgspec.convert({**filled, "name": name}, Service, dec_hook=decode_quantity, strict=False)
                except msgspec.ValidationError as error:
                    said, at = place_of(error, trail)
                    raise NotFilled(self._document.place(at), at, StackInvalid(said)) from None
                if service.elsewhere:
                    service = msgspec.structs.replace(service, run=RunBy.EXTERNAL)
                self._known[trail] = service
            found: Service = self._known[trail]
            return found

    def _read(self, trail: Trail, raw: Any) -> Any:
        with self._lock:
            if trail not in self._known:
                self._known[trail] = self._fill(trail, raw)
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
            return self._secret(value) if isinstance(value, str) and is_secret(value) and _may_be(trail) else value
        except NotFilled:
            raise  # a variable that this value needs has its own place
        except StackInvalid as error:
            raise NotFilled(self._document.place(trail), trail, error) from error.__cause__

    def _secret(self, reference: str, default: str | None = None) -> str:
        """What `secret('env:NAME', 'default')` gives in a template; masked from now on, the default too."""
        try:
            value = self._read_secret(reference, near=self.path.absolute().parent)
        except StackInvalid:
            if default is None:
                raise
            value = str(default)
        self.redact.add(value)
        return value


class NotFilled(StackInvalid):
    """A value of a stack file cannot be filled in.

    Args:
        place: Where it stands.
        trail: The keys that lead to it.
        cause: Why.

    Attributes:
        said: Why, without the place.
        missing: This machine lacks something; the file itself is right.
    """

    def __init__(self, place: Place, trail: Trail, cause: StackInvalid) -> None:
        super().__init__(f"{place}: {cause.message}", hint=cause.hint)
        self.trail = trail
        self.said = cause.message
        self.missing = isinstance(cause, Missing)


class Lazily(Mapping[str, Any]):
    """A mapping whose values are made when they are asked for.

    Args:
        names: Its keys.
        make: Makes the value of a key.
    """

    __slots__ = ("_make", "_names")

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], Any]) -> None:
        self._names = names
        self._make = make

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}: …' for name in self._names)}}}"


def missing_program(service: Service) -> str:
    """Why a process cannot be run on this machine; empty when it can."""
    if service.run is not RunBy.PROCESS or not service.program:
        return ""
    from shutil import which

    return "" if which(service.program) else f"{service.program} is not installed"


def _may_be(trail: Trail) -> bool:
    """Whether a value at this place may name a secret; a command's arguments and URLs are what they look like."""
    return trail[0] in {"connections", "vars"} or (len(trail) > 2 and trail[2] in {"headers", "env", "ready"})  # noqa: PLR2004 - services, name, key


def _seen(service: Service) -> dict[str, Any]:
    shown = ("name", "title", "url", "metrics", "ports", "container", "program")
    return {"run": str(service.run), **{field: getattr(service, field) for field in shown}}
