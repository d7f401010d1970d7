"""Evaluates plain expressions without Jinja2: names, fields, numbers and texts, compared, joined by `and` and `or`.

Nearly every expectation is one (`result.status == 200 and result.rows > 0`), and importing Jinja2 takes longer than a
whole short run. What these functions answer is what Jinja2's sandbox answers; whatever is out of the ordinary (a name
that is missing, a method, values that cannot be compared) they leave to it, with its rules and its messages.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct

from k2run.language.syntax import read_alike

Evaluator = Callable[[Mapping[str, Any]], Any]
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, values: item in values,
    ast.NotIn: lambda item, values: item not in values,
}
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "none": None, "None": None}


_TAKEN = frozenset({"self"})
"""Names that mean something of their own to Jinja2."""


class NotPlain(Exception):
    """Jinja2 has to look at it."""


@lru_cache(maxsize=4096)
def plain(text: str) -> Evaluator | None:
    """The expression as a function of its scope, or None when it is not a plain one.

    The function raises (anything) where Jinja2 has to be asked after all.
    """
    tree = read_alike(text)
    try:
        return None if tree is None else _evaluator(tree)
    except NotPlain:
        return None


def _evaluator(node: ast.expr) -> Evaluator:  # noqa: PLR0911 - one case per kind of node
    match node:
        case ast.Constant(value=value):
            return lambda _scope: value
        case ast.Name(id=name) if name in _CONSTANTS:
            return lambda _scope: _CONSTANTS[name]
        case ast.Name(id=name) if name not in _TAKEN:
            return lambda scope: scope[name]
        case ast.Attribute(value=inner, attr=attribute):
            owner = _evaluator(inner)
            return lambda scope: _field(owner(scope), attribute)
        case ast.Subscript(value=inner, slice=ast.Constant(value=int() | str() as key)):
            owner = _evaluator(inner)
            return lambda scope: _item(owner(scope), key)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return lambda _scope: -number
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            denied = _evaluator(inner)
            return lambda scope: not denied(scope)
        case ast.BoolOp(op=joint, values=values):
            return _joined([_evaluator(each) for each in values], all_of_them=isinstance(joint, ast.And))
        case ast.Compare(left=left, ops=[how], comparators=[right]) if type(how) in _COMPARE:
            one, other, compare = _evaluator(left), _evaluator(right), _COMPARE[type(how)]
            return lambda scope: compare(one(scope), other(scope))
    raise NotPlain


def _joined(parts: list[Evaluator], *, all_of_them: bool) -> Evaluator:
    """`and` and `or` give the value that decides, as they do in Python."""

    def evaluate(scope: Mapping[str, Any]) -> Any:
        value = None
        for part in parts:
            value = part(scope)
            if bool(value) is not all_of_them:
                break
        return value

    return evaluate


def _field(owner: Any, name: str) -> Any:
    """A field of a mapping or of a result."""
    if isinstance(owner, Mapping):
        return owner[name]
    if isinstance(owner, Struct) and name in owner.__struct_fields__:
        return getattr(owner, name)
    raise NotPlain


def _item(owner: Any, key: int | str) -> Any:
    """An item of a mapping, a list or a text."""
    if isinstance(owner, Mapping | list | tuple | str):
        return owner[key]  # type: ignore[index] # a text as the key of a list is Jinja2's to judge
    raise NotPlain
