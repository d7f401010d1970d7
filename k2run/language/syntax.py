"""The syntax of expressions: their vocabulary, and what reading one gives. Importing this imports no Jinja2."""

from __future__ import annotations

from msgspec import Struct

CONSTANTS = frozenset({"true", "false", "none"})
"""Names that are values; `True`, `False` and `None` are the same."""

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
