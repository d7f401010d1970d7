"""Evaluate expressions: Jinja2's tree, with the operations of its sandbox, as nested functions.

Jinja2 can compile an expression to Python code instead. That took 0.57 ms for each (these functions 0.02 ms), more than
a whole step is allowed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateAssertionError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.utils import missing
from msgspec import Struct

from k2run.language.filters import joined, refill
from k2run.language.jinja import FUNCTIONS, Missing, environment, parse, read_expression
from k2run.language.problems import did_you_mean
from k2run.language.quantities import UnitMismatch, contained, equal
from k2run.language.vocabulary import ABSENT, ITEM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jinja2.runtime import Context

Values = Mapping[str, Any]
Evaluator = Callable[[Values], Any]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": equal,
    "ne": lambda left, right: not equal(left, right),
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": contained,
    "notin": lambda item, values: not contained(item, values),
}


@lru_cache(maxsize=4096)
def evaluator(text: str) -> Evaluator:
    """The expression as a function of its scope.

    Raises:
        TemplateSyntaxError: It is not an expression.
    """
    value = _of(parse(text))

    def evaluate(scope: Values) -> Any:
        refill()
        return value(scope)

    return evaluate


@cache
def _context() -> Context:
    """What filters that ask for a context get; names come from the scope alone."""
    return environment().from_string("").new_context({})


def _of(node: nodes.Node) -> Evaluator:
    return _HANDLERS[node.__class__](node)


def _constant(node: nodes.Const) -> Evaluator:
    value = node.value
    return lambda _scope: value


def _name(node: nodes.Name) -> Evaluator:
    name = node.name
    return lambda scope: scope[name] if name in scope else Missing(name=name)


def _attribute(node: nodes.Getattr) -> Evaluator:
    owner, name, getattr_ = _of(node.node), node.attr, environment().getattr
    return lambda scope: getattr_(owner(scope), name)


def _item(node: nodes.Getitem) -> Evaluator:
    owner, key, getitem = _of(node.node), _of(node.arg), environment().getitem
    if isinstance(node.arg, nodes.Slice):
        return lambda scope: owner(scope)[key(scope)]
    return lambda scope: getitem(owner(scope), key(scope))


def _slice(node: nodes.Slice) -> Evaluator:
    parts = [_of(part) if part else _nothing for part in (node.start, node.stop, node.step)]
    return lambda scope: slice(*(part(scope) for part in parts))


def _nothing(_scope: Values) -> None:
    return None


def _list(node: nodes.List) -> Evaluator:
    items = [_of(item) for item in node.items]
    return lambda scope: [item(scope) for item in items]


def _tuple(node: nodes.Tuple) -> Evaluator:
    items = [_of(item) for item in node.items]
    return lambda scope: tuple(item(scope) for item in items)


def _dict(node: nodes.Dict) -> Evaluator:
    pairs = [(_of(pair.key), _of(pair.value)) for pair in node.items]
    return lambda scope: {key(scope): value(scope) for key, value in pairs}


def _arithmetic(node: nodes.BinExpr) -> Evaluator:
    left, right, call, sign = _of(node.left), _of(node.right), environment().call_binop, node.operator
    return lambda scope: call(_context(), sign, left(scope), right(scope))


def _sign(node: nodes.UnaryExpr) -> Evaluator:
    value, call, sign = _of(node.node), environment().call_unop, node.operator
    return lambda scope: call(_context(), sign, value(scope))


def _not(node: nodes.Not) -> Evaluator:
    value = _of(node.node)
    return lambda scope: not value(scope)


def _and(node: nodes.And) -> Evaluator:
    left, right = _of(node.left), _of(node.right)
    return lambda scope: left(scope) and right(scope)


def _or(node: nodes.Or) -> Evaluator:
    left, right = _of(node.left), _of(node.right)
    return lambda scope: left(scope) or right(scope)


def _choice(node: nodes.CondExpr) -> Evaluator:
    test, first = _of(node.test), _of(node.expr1)
    second = _of(node.expr2) if node.expr2 else _no_else
    return lambda scope: first(scope) if test(scope) else second(scope)


def _no_else(_scope: Values) -> Any:
    return Missing("the condition of `if` is false and there is no `else`")


def _concatenation(node: nodes.Concat) -> Evaluator:
    parts = [_of(part) for part in node.nodes]
    return lambda scope: joined("", [part(scope) for part in parts])


def _comparison(node: nodes.Compare) -> Evaluator:
    first = _of(node.expr)
    others = [(_COMPARE[operand.op], _of(operand.expr)) for operand in node.ops]
    if len(others) == 1:
        [(compare, second)] = others
        return lambda scope: compare(first(scope), second(scope))

    def chain(scope: Values) -> Any:
        left, holds = first(scope), True
        for compare, operand in others:
            right = operand(scope)
            holds = compare(left, right)
            if not holds:
                break
            left = right
        return holds

    return chain


def _filter(node: nodes.Filter) -> Evaluator:
    if node.name not in environment().filters:
        raise TemplateAssertionError(f"no filter named {node.name}", node.lineno)
    inner = node.node or nodes.Const(None)  # only the filter of a block has none
    return _applied(node, inner, environment().call_filter)


def _test(node: nodes.Test) -> Evaluator:
    if node.name not in environment().tests:
        raise TemplateAssertionError(f"no test named {node.name}", node.lineno)
    return _applied(node, node.node, environment().call_test)


def _applied(node: nodes.Filter | nodes.Test, to: nodes.Node, call: Callable[..., Any]) -> Evaluator:
    value, arguments, name = _of(to), _arguments(node), node.name

    def applied(scope: Values) -> Any:
        found = value(scope)
        positional, named = arguments(scope)
        return call(name, found, positional, named, context=_context())

    return applied


def _call(node: nodes.Call) -> Evaluator:
    """A function is k2run's, whatever the scope calls by its name."""
    if isinstance(node.node, nodes.Name):
        name = node.node.name
        named_function = FUNCTIONS.get(name, Missing(name=name))
        function: Evaluator = lambda _scope: named_function  # noqa: E731 - of the same form as the other case
    else:
        function = _of(node.node)
    arguments, call = _arguments(node), environment().call

    def called(scope: Values) -> Any:
        found = function(scope)
        positional, named = arguments(scope)
        return call(_context(), found, *positional, **named)

    return called


def _arguments(node: nodes.Call | nodes.Filter | nodes.Test) -> Callable[[Values], tuple[list[Any], dict[str, Any]]]:
    positional = [_of(argument) for argument in node.args]
    named = [(keyword.key, _of(keyword.value)) for keyword in node.kwargs if isinstance(keyword, nodes.Keyword)]
    more = _of(node.dyn_args) if node.dyn_args else None
    more_named = _of(node.dyn_kwargs) if node.dyn_kwargs else None

    def arguments(scope: Values) -> tuple[list[Any], dict[str, Any]]:
        values = [argument(scope) for argument in positional]
        if more is not None:
            values += more(scope)
        by_name = {key: value(scope) for key, value in named}
        if more_named is not None:
            by_name |= more_named(scope)
        return values, by_name

    return arguments


_HANDLERS: dict[type[nodes.Node], Callable[[Any], Evaluator]] = {
    nodes.Const: _constant,
    nodes.Name: _name,
    nodes.Getattr: _attribute,
    nodes.Getitem: _item,
    nodes.Slice: _slice,
    nodes.List: _list,
    nodes.Tuple: _tuple,
    nodes.Dict: _dict,
    **dict.fromkeys((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow), _arithmetic),
    **dict.fromkeys((nodes.Neg, nodes.Pos), _sign),
    nodes.Not: _not,
    nodes.And: _and,
    nodes.Or: _or,
    nodes.CondExpr: _choice,
    nodes.Concat: _concatenation,
    nodes.Compare: _comparison,
    nodes.Filter: _filter,
    nodes.Test: _test,
    nodes.Call: _call,
}


def explain(error: Exception, text: str, scope: Mapping[str, Any]) -> tuple[str, str]:
    """Why evaluating an expression in a scope raised an error, in one clause, and a hint."""
    if isinstance(error, UndefinedError):
        return _missing(text, scope) or (str(error), "")
    if isinstance(error, TemplateSyntaxError):
        fault = next(iter(read_expression(text).faults), None)
        return (fault.message, fault.hint) if fault else (str(error), "")
    if isinstance(error, SecurityError | UnitMismatch):
        return str(error), ""
    if isinstance(error, TypeError):
        return _types(text, scope) or str(error), ""
    return _otherwise(error)


def _otherwise(error: Exception) -> tuple[str, str]:
    """What Python says too briefly, or in words of its own."""
    match error:
        case ZeroDivisionError():
            return "division by zero", "guard it: (a / b) if b else …"
        case OverflowError():
            return "the number is too large", ""
        case RecursionError() | MemoryError() | SyntaxError():
            return "it is too long, too deep or makes too much", "compute it in several steps, with `set`"
    return f"{error}" or type(error).__name__, ""


def _missing(text: str, scope: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first path of the expression that leads nowhere."""
    for reference in read_expression(text).references:
        if reference.called:
            if reference.name not in FUNCTIONS:
                return f"`{reference.name}` is not a function", did_you_mean(reference.name, FUNCTIONS)
            continue
        if reference.name in scope.get(ABSENT, {}) and reference.name not in scope:
            return (
                f"`{reference.name}` has no value: {scope[ABSENT][reference.name].why}",
                "ask `NAME is defined` before",
            )
        if reference.name not in scope:
            return f"`{reference.name}` has no value here", did_you_mean(reference.name, scope)
        path = reference.name
        for step in reference.path:
            if step == ITEM:
                break
            owner = _value(path, scope)
            path = f"{path}.{step}"
            if isinstance(_value(path, scope), Missing):
                return f"`{path}` does not exist: {_described(owner)}", did_you_mean(step, _names(owner))
    return None


def inapplicable(text: str, scope: Mapping[str, Any]) -> str:
    """Why an expression does not apply: a step that does not would have given one of its names; empty when it does."""
    absent = scope.get(ABSENT, {})
    lost = (name for name in (each.name for each in read_expression(text).references) if name not in scope)
    return next((f"`{name}` has no value: {absent[name].why}" for name in lost if not _applies(absent, name)), "")


def _applies(absent: Mapping[str, Any], name: str) -> bool:
    return name not in absent or absent[name].applies


def _value(text: str, scope: Mapping[str, Any]) -> Any:
    try:
        return evaluator(text)(scope)
    except Exception:  # noqa: BLE001 - this is already the search for a reason
        return Missing(name=text, obj=missing)


def _names(owner: Any) -> Iterable[str]:
    if isinstance(owner, Mapping):
        return [str(key) for key in owner]
    return owner.__struct_fields__ if isinstance(owner, Struct) else ()


def _described(owner: Any) -> str:
    names = list(_names(owner))
    if names:
        return f"there are {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"  # noqa: PLR2004 - a line's worth
    return "its owner is none" if owner is None else f"its owner is {owner!r:.60}"


def _types(text: str, scope: Mapping[str, Any]) -> str:
    """For an operation on values that do not fit: which values those were."""
    shown = []
    for reference in read_expression(text).references:
        if reference.called or ITEM in reference.path:
            continue
        path = ".".join((reference.name, *reference.path))
        value = _value(path, scope)
        shown.append(f"`{path}` is {'none' if value is None else repr(value)[:60]}")
    return "the values do not fit the operation: " + ", ".join(dict.fromkeys(shown)) if shown else ""
