"""The vocabulary of the language: actions that a runbook may use; expressions, and the names in scope at a place.

The language does not know any adapter: it is handed a `Vocabulary`. Six words are its own.
"""

from __future__ import annotations

import types
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from k2run.language.quantities import Duration  # noqa: TC001 - msgspec resolves the types of fields at run time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.language.document import Trail


class Effect(StrEnum):
    """What an action does to the stack."""

    OBSERVES = "observes"
    CHANGES = "changes"
    DESTROYS = "destroys"
    BREAKS = "breaks"


ONLY_LOOKS = frozenset({None, Effect.OBSERVES})
"""Effects of steps that change nothing themselves: observing actions, blocks, and the words of the language."""
HARMS = frozenset({Effect.BREAKS, Effect.DESTROYS})
"""Effects that a stack is protected from."""


class ActionForm(Protocol):
    """The form of one action: what may be written below its name."""

    @property
    def name(self) -> str:
        """`adapter.verb`."""
        ...

    @property
    def arguments(self) -> type[Struct]:
        """A struct of its arguments."""
        ...

    @property
    def result(self) -> Any:
        """The type of its result."""
        ...

    @property
    def effect(self) -> Effect | None:
        """What it does to the stack; None for a word of the language."""
        ...

    @property
    def connections(self) -> tuple[type, ...]:
        """Not empty when it needs a stack."""
        ...


class Vocabulary(Protocol):
    """Finds actions by name."""

    def find(self, name: str) -> ActionForm | None:
        """The action of that name, or None."""
        ...

    def names(self) -> Sequence[str]:
        """Every name, for suggestions."""
        ...


class AssertArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`assert`: all expressions must be true."""

    that: str | list[str]


class WaitArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`wait`: do nothing for a while."""

    for_: Duration = msgspec.field(name="for")


class Word(Struct, frozen=True):
    """An action that belongs to the language itself."""

    name: str
    arguments: Any
    result: Any = None
    connections: tuple[type, ...] = ()
    effect: Effect | None = None


class RunArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`run`: another runbook, with its inputs."""

    runbook: str
    inputs: dict[str, Any] = {}


class StopArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`stop`: end the run here; `always` and undos still run."""

    because: str
    passed: bool = False


class SkipArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`skip_section`: leave out what is left of this section."""

    because: str = ""


ASSERT = Word("assert", AssertArguments)
WAIT = Word("wait", WaitArguments)
SET = Word("set", dict[str, Any])
RUN = Word("run", RunArguments)
STOP = Word("stop", StopArguments)
SKIP_SECTION = Word("skip_section", SkipArguments)
WORDS = {word.name: word for word in (ASSERT, WAIT, SET, RUN, STOP, SKIP_SECTION)}

RESERVED_FUNCTIONS = frozenset({"range", "min", "max", "len", "now"})
"""Functions whose names a runbook cannot give to its own values."""

QUANTITY_FUNCTIONS = frozenset({"duration", "size", "rate"})

FUNCTIONS = RESERVED_FUNCTIONS | QUANTITY_FUNCTIONS

OWN_FILTERS = frozenset(
    {"abs", "age", "bool", "float", "from_json", "human", "int", "matches", "percentile", "replace", "search", "split"}
    | {"sum", "to_duration", "to_rate", "to_size", "tojson"}
)
"""Filters that k2run defines, or defines more strictly than Jinja2."""

QUANTITY_FILTERS = frozenset({"to_duration", "to_size", "to_rate", "age"})
"""Filters that make a quantity."""

JINJA_FILTERS = frozenset(
    {"capitalize", "count", "d", "default", "dictsort", "first", "groupby", "items", "join", "last"}
    | {"length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select"}
    | {"selectattr", "sort", "string", "title", "trim", "truncate", "unique", "upper", "urlencode"}
)

FILTERS = OWN_FILTERS | JINJA_FILTERS

OWN_TESTS = frozenset({"matches", "search"})

JINJA_TESTS = frozenset(
    {"boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge", "greaterthan", "gt", "in"}
    | {"integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "odd", "sameas"}
    | {"sequence", "string", "true", "undefined", "upper", "==", "!=", ">", ">=", "<", "<="}
)

TESTS = OWN_TESTS | JINJA_TESTS

METHODS = frozenset(
    {
        "capitalize",
        "count",
        "endswith",
        "find",
        "get",
        "index",
        "isalnum",
        "isalpha",
        "isdigit",
        "items",
        "join",
        "keys",
    }
    | {"lower", "lstrip", "partition", "removeprefix", "removesuffix", "rpartition", "rsplit", "rstrip", "split"}
    | {"splitlines", "startswith", "strip", "title", "upper", "values"}
)
"""Methods of texts, lists and mappings that may be called; each takes no more than it is given."""

MAX_LENGTH = 4_000
"""Characters of one expression."""

ITEM = "[]"
"""Stands for any subscript in a path of attributes."""


class Reference(Struct, frozen=True):
    """A name in an expression and the attributes taken from it: `result.rows[0].id` is result, (rows, [], id).

    Attributes:
        offsets: Where the name and each attribute begin, in characters.
        called: The name itself is called, as in `range(3)`.
    """

    name: str
    path: tuple[str, ...]
    offsets: tuple[int, ...]
    called: bool = False


class Fault(Struct, frozen=True):
    """Something wrong in an expression, at a character offset."""

    code: str
    message: str
    offset: int
    length: int = 1
    hint: str = ""
    expected: str = ""


class Syntax(Struct, frozen=True):
    """What reading an expression gave.

    Attributes:
        quantified: It contains or makes a quantity.
    """

    references: tuple[Reference, ...] = ()
    faults: tuple[Fault, ...] = ()
    quantified: bool = False


_SCALARS = (str, int, float, bool)


class Absent(Exception):
    """A type has no such attribute.

    Attributes:
        index: Which attribute of the path is wrong.
        names: Those there are.
    """

    def __init__(self, index: int, names: tuple[str, ...]) -> None:
        super().__init__(index, names)
        self.index = index
        self.names = names


def follow(shape: Any, path: tuple[str, ...]) -> Any:
    """The type at the end of a path of attributes; Any where nothing is known.

    Raises:
        Absent: The type on the way has no such attribute.
    """
    for index, name in enumerate(path):
        if shape is Any:
            return Any
        try:
            shape = _step(shape, name)
        except LookupError as error:
            raise Absent(index, tuple(error.args[0])) from None
    return shape


def _step(shape: Any, name: str) -> Any:  # noqa: PLR0911 - one for each form of type
    """The type one attribute further; raises LookupError with the names that there are."""
    if isinstance(shape, type):
        if issubclass(shape, Struct):
            return _of_struct(shape, name)
        if issubclass(shape, _SCALARS) and name != ITEM:
            raise LookupError(())
        return Any
    origin, parts = get_origin(shape), get_args(shape)
    if origin is Annotated:
        return _step(parts[0], name)
    if origin in (Union, types.UnionType):
        return _of_union(parts, name)
    if origin is dict and len(parts) == 2:  # noqa: PLR2004 - key and value
        return parts[1]
    if origin in (list, tuple) and parts and name == ITEM:
        return parts[0]
    return Any


def _of_union(parts: tuple[Any, ...], name: str) -> Any:
    names: list[str] = []
    for part in parts:
        if part is type(None):
            continue
        try:
            return _step(part, name)
        except LookupError as error:
            names += error.args[0]
    raise LookupError(tuple(names))


def _of_struct(shape: type[Struct], name: str) -> Any:
    fields = fields_of(shape)
    if name in fields:
        return fields[name]
    if name != ITEM and isinstance(getattr(shape, name, None), property):
        return Any
    raise LookupError(tuple(fields))


@lru_cache(maxsize=512)
def fields_of(shape: type[Struct]) -> dict[str, Any]:
    """The fields of a struct with their types; Any for those that cannot be resolved."""
    from msgspec.structs import fields

    try:
        return {field.name: field.type for field in fields(shape)}
    except NameError:
        return dict.fromkeys(shape.__struct_fields__, Any)


FACTS = ("stack", "roles", "run", "figures")
"""Names that the engine gives to every expression."""

RESERVED = frozenset({*FACTS, "result", "attempt", "self", "true", "false", "none", "True", "False", "None"})
"""Names that a runbook cannot give to its own values."""

ABSENT = "k2run absent"
"""Where the names of a run keep why some have no value; it cannot be written by a runbook."""


class NoValue(NamedTuple):
    """Why a name has no value.

    Attributes:
        why: In a clause, for people.
        applies: Whether the step that would have given it applies to the stack; what uses it does not, either.
    """

    why: str
    applies: bool = True


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


MAX_VISITS = 100_000


def registrations(data: Any) -> dict[str, Trail]:
    """By name, the path of the first `register: name` (or `set: {name: …}`)."""
    found: dict[str, Trail] = {}
    waiting: list[tuple[Any, Trail]] = [(data, ())]
    for _ in range(MAX_VISITS):
        if not waiting:
            break
        value, path = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("register"), str):
                found.setdefault(value["register"], (*path, "register"))
            if isinstance(value.get("set"), dict):
                for name in value["set"]:
                    found.setdefault(name, (*path, "set", name))
            waiting += [(item, (*path, key)) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(item, (*path, index)) for index, item in reversed(list(enumerate(value)))]
    return found
