"""Finds actions by name and describes them: the signature gives the arguments, the docstring the words."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import msgspec

from k2run.actions.action import Effect, Person
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import EntryPoint
    from types import ModuleType

    from k2run.actions.action import Blast, Mark

ENTRY_POINTS = "k2run.adapters"


@dataclass(frozen=True)
class Action:
    """One action, described.

    Attributes:
        name: `adapter.verb`.
        call: The function itself.
        given: Names of the parameters that the engine supplies, with their types (connections, deadline).
        arguments: A struct of the step's own arguments; msgspec converts and checks with it. Its fields are the
            function's parameters, and are written without the `_` at their end (`from` is `from_` in Python).
        result: The type of what it returns.
        blast: How far a fault reaches, or a change of data; None for any other.
    """

    name: str
    call: Callable[..., Any]
    effect: Effect
    given: dict[str, type]
    arguments: type[msgspec.Struct]
    result: Any
    blast: Blast | None = None

    @cached_property
    def punctual(self) -> bool:
        """Whether it keeps its deadline by itself."""
        mark: Mark = self.call.__k2run__  # type: ignore[attr-defined]
        return mark.punctual

    def may_plan(self, undo: str) -> bool:
        """Whether this fault can have planned an action of that name as its undo."""
        mark: Mark = self.call.__k2run__  # type: ignore[attr-defined]
        if mark.effect is not Effect.BREAKS:
            return False
        return undo in mark.undone_by if mark.undone_by else undo.partition(".")[0] == self.name.partition(".")[0]

    @cached_property
    def connections(self) -> tuple[type[Connection], ...]:
        """The connections that a stack must have for this action."""
        return tuple(kind for kind in self.given.values() if issubclass(kind, Connection))

    @cached_property
    def doc(self) -> str:
        """The whole docstring, without indentation."""
        return inspect.getdoc(self.call) or ""

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        return self.doc.split("\n", 1)[0]


def describe(function: Callable[..., Any], mark: Mark) -> Action:
    """Read a marked function's signature into an `Action`."""
    hints = get_type_hints(function, include_extras=True)
    given: dict[str, type] = {}
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and issubclass(kind, Connection | Deadline | Person):
            given[name] = kind
            continue
        fields.append(
            (name, kind) if parameter.default is parameter.empty else (name, kind, _default(parameter.default))
        )
    arguments = msgspec.defstruct(
        mark.name, fields, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=lambda name: name.rstrip("_")
    )
    return Action(mark.name, function, mark.effect, given, arguments, _result(hints.get("return")), mark.blast)


def _default(value: Any) -> Any:
    if isinstance(value, list | dict | set):
        return msgspec.field(default_factory=value.copy)
    return value


def _result(returned: Any) -> Any:
    """A fault is a generator; its result is what the generator returns."""
    return get_args(returned)[2] if get_origin(returned) is Generator else returned


@dataclass
class Catalogue:
    """All actions that can be found, imported only when asked for.

    Built-in adapters are the modules of `k2run.adapters` and its packages with a module `actions`; others come from the
    entry-point group of that name: `tides = "package.module"`, or `"kafka.tides" = …` for more actions of an adapter.
    """

    package: str = "k2run.adapters"
    _found: dict[str, Action | None] = field(default_factory=dict, repr=False)

    def find(self, name: str) -> Action | None:
        """The action of that name, or None."""
        if name not in self._found:
            self._found[name] = self._look_up(name)
        return self._found[name]

    def undoes(self, name: str) -> bool:
        """Whether some fault can have planned the action of that name as its undo; imports every adapter."""
        return any(action.may_plan(name) for action in self.all())

    def names(self) -> list[str]:
        """Every action's name, sorted; imports every adapter (but no client library)."""
        return sorted(action.name for action in self.all())

    def all(self) -> Iterator[Action]:
        """Every action, adapter by adapter."""
        for adapter in self.adapters():
            for module in self._modules(adapter):
                for _, function in inspect.getmembers(module, inspect.isfunction):
                    mark = getattr(function, "__k2run__", None)
                    if mark is not None and mark.name.partition(".")[0] == adapter:
                        known = self._found.get(mark.name)
                        if known is None:
                            known = self._found[mark.name] = describe(function, mark)
                        yield known

    def connections(self) -> dict[str, type[Connection]]:
        """What a stack file may have under `connections:`, by its key; imports every adapter."""
        found = [kind for action in self.all() for kind in action.connections]
        for adapter in self.adapters():
            for module in self._modules(adapter):
                found += [
                    kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Connection)
                ]
        return {kind.key: kind for kind in sorted(found, key=lambda kind: kind.key) if kind.key not in {"", "services"}}

    def faults(self) -> list[str]:
        """The names of all faults."""
        return [found.name for found in self.all() if found.effect is Effect.BREAKS]

    def adapters(self) -> list[str]:
        """The names of all adapters."""
        package = importlib.import_module(self.package)
        own = [
            module.name
            for module in pkgutil.iter_modules(package.__path__)
            if not module.name.startswith("_") and (not module.ispkg or self._has_actions(module.name))
        ]
        return sorted({*own, *_entry_points()})

    def _has_actions(self, adapter: str) -> bool:
        return importlib.util.find_spec(f"{self.package}.{adapter}.actions") is not None

    def _look_up(self, name: str) -> Action | None:
        adapter, _, verb = name.partition(".")
        if not adapter.isidentifier() or not verb.isidentifier():
            return None
        for module in self._modules(adapter):
            function = getattr(module, verb, None) or getattr(module, f"{verb}_", None)
            mark = getattr(function, "__k2run__", None)
            if function is not None and mark is not None and mark.name == name:
                return describe(function, mark)
        return None

    def _modules(self, adapter: str) -> Iterator[ModuleType]:
        """The modules with the actions of an adapter, imported one by one: the built-in one, then those of others."""
        own = self._own(adapter)
        if own is not None:
            yield own
        for name, point in _entry_points().get(adapter, {}).items():
            if own is None or name != adapter:
                yield load_point(point)

    def _own(self, adapter: str) -> ModuleType | None:
        path = f"{self.package}.{adapter}"
        try:
            found = importlib.import_module(path)
            return importlib.import_module(f"{path}.actions") if hasattr(found, "__path__") else found
        except ModuleNotFoundError as error:
            if error.name not in {path, f"{path}.actions"}:
                raise
        return None


@cache
def _entry_points() -> dict[str, dict[str, EntryPoint]]:
    """Modules by adapter and entry point: `tides`, or `kafka.tides` for further actions of an adapter."""
    from importlib.metadata import entry_points

    found: dict[str, dict[str, EntryPoint]] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        found.setdefault(point.name.partition(".")[0], {})[point.name] = point
    return found


def load_point(point: EntryPoint) -> Any:
    """What a package brings along by an entry point.

    Raises:
        OperatorError: It cannot be imported.
    """
    try:
        return point.load()
    except Exception as error:  # whatever a package does when it is imported
        brings = point.dist.name if point.dist is not None else "a package"
        hint = f"install {brings} again, or remove it"
        if brings == "k2run":
            hint = "k2run has changed since it was installed: in its folder, `sh install.sh` installs it again"
        raise OperatorError(f"{point.name!r} of {brings} cannot be loaded: {error}", hint=hint) from error
