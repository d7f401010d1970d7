"""Expressions and templates: what a runbook computes while it runs, and what of a result it cannot know.

An `Expression` is bare (`result.rows > 1000`). A `Template` is a text with `{{ expression }}` in it; one that is one
expression and nothing else keeps the type of its value. Only `{{ }}` means anything in a text: `{%` is refused, and
`{#` is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import astuple

from k2run.errors import ExpressionFailed, Inapplicable, NotWhole
from k2run.language.problems import Place
from k2run.language.vocabulary import ITEM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.language.vocabulary import Reference, Syntax

NOWHERE = Place("", 0, 0)
"""The place of an expression that stands in no file."""


class Expression:
    """One expression, checked when the runbook is read and compiled when it is first evaluated.

    Attributes:
        text: As written.
        place: Where it begins in its file.
    """

    __slots__ = ("place", "text")

    def __init__(self, text: str, place: Place = NOWHERE) -> None:
        self.text = text
        self.place = place

    @property
    def syntax(self) -> Syntax:
        """What it refers to, and what is wrong with it."""
        from k2run.language.jinja import read_expression

        return read_expression(self.text)

    @property
    def names(self) -> frozenset[str]:
        """The names it takes from its scope, functions excluded."""
        return frozenset(reference.name for reference in self.syntax.references if not reference.called)

    def evaluate(self, scope: Mapping[str, Any]) -> Any:
        """Its value, of its own type.

        Raises:
            ExpressionFailed: A name or field is missing, or the values do not fit the operation.
            NotWhole: It looks at what was cut, or could not be read.
            Inapplicable: It uses a name that a step would have given that does not apply, or a role that the stack does
                not declare.
        """
        if not self._hands_on:
            self._look_for_unseen(scope)
        try:
            from k2run.language.evaluation import evaluator
            from k2run.language.jinja import Missing

            value = evaluator(self.text)(scope)
            for each in value if isinstance(value, list | tuple) else (value,):
                if isinstance(each, Missing):
                    each._fail_with_undefined_error()  # noqa: SLF001 - jinja2's own way to fail
        except Exception as error:  # an expression may raise whatever its values do
            raise self._failure(error, scope) from error
        return value

    @property
    def _hands_on(self) -> bool:
        """Whether it is a value and nothing else: nothing is made of it, so nothing wrong can be."""
        return self.text.replace(".", "").isidentifier()

    def _look_for_unseen(self, scope: Mapping[str, Any]) -> None:
        unseen = unseen_in(self.syntax.references, scope)
        if unseen:
            where = f"{self.place}: " if self.place is not NOWHERE else ""
            hint = "have less printed, or let the command look: `grep -c ERROR`" if "was cut" in unseen else ""
            raise NotWhole(f"{where}`{self.text}` cannot be known: {unseen}", hint=hint)

    def _failure(self, error: Exception, scope: Mapping[str, Any]) -> ExpressionFailed:
        from k2run.language.evaluation import explain, inapplicable

        if isinstance(error, Inapplicable):  # a role that the stack does not declare
            return error
        why = inapplicable(self.text, scope)
        if why:
            return Inapplicable(why)
        reason, hint = explain(error, self.text, scope)
        where = f"{self.place}: " if self.place is not NOWHERE else ""
        return ExpressionFailed(f"{where}`{self.text}` could not be evaluated: {reason}", hint=hint)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class Template:
    """A text with expressions in it.

    Attributes:
        text: As written.
        place: Where it begins in its file.
        parts: The literal texts and the expressions, in order.
    """

    __slots__ = ("parts", "place", "text")

    def __init__(self, text: str, place: Place = NOWHERE, parts: Sequence[str | Expression] | None = None) -> None:
        self.text = text
        self.place = place
        if parts is None:
            parts = [Expression(p.text, place) if p.is_expression else p.text for p in cut(text).pieces]
        self.parts = tuple(parts)

    @property
    def names(self) -> frozenset[str]:
        """The names that its expressions take from their scope."""
        return frozenset(name for part in self.parts if isinstance(part, Expression) for name in part.names)

    def render(self, scope: Mapping[str, Any]) -> Any:
        """The value of its only expression with its type, or else the text with every expression filled in.

        Raises:
            ExpressionFailed: An expression could not be evaluated.
        """
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return self.parts[0].evaluate(scope)
        from k2run.language.filters import as_text

        return "".join(part if isinstance(part, str) else as_text(part.evaluate(scope)) for part in self.parts)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def has_template(text: str) -> bool:
    """Whether a text has `{{` in it."""
    return "{{" in text


def is_fixed(value: Any) -> bool:
    """Whether there is no template in a value: it renders to itself, whatever the scope."""
    if isinstance(value, dict):
        return all(map(is_fixed, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_fixed, value))
    return not isinstance(value, Template)


def names_in(value: Any) -> frozenset[str]:
    """The names that the templates in a value take from their scope."""
    if isinstance(value, Template | Expression):
        return value.names
    return frozenset().union(*map(names_in, _inside(value)))


def roles_in(value: Any) -> frozenset[str]:
    """The roles of the stack that the templates in a value ask for, as `roles.NAME`."""
    if isinstance(value, Template):
        return frozenset().union(*map(roles_in, value.parts))
    if isinstance(value, Expression):
        asked = (each.path for each in value.syntax.references if each.name == "roles")
        return frozenset(path[0] for path in asked if path)
    return frozenset().union(*map(roles_in, _inside(value)))


def calls(value: Any, function: str) -> bool:
    """Whether the templates in a value call a function."""
    if isinstance(value, Template):
        return any(calls(part, function) for part in value.parts)
    if isinstance(value, Expression):
        return any(each.called and each.name == function for each in value.syntax.references)
    return any(calls(item, function) for item in _inside(value))


def _inside(value: Any) -> Iterable[Any]:
    """What a record, a mapping or a list holds."""
    if isinstance(value, Struct):
        return astuple(value)
    return value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def render(value: Any, scope: Mapping[str, Any]) -> Any:
    """The value with every template in it rendered; mappings and lists are walked, expressions stay as they are.

    Raises:
        ExpressionFailed: An expression could not be evaluated.
    """
    if isinstance(value, Template):
        return value.render(scope)
    if isinstance(value, dict):
        return {key: render(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [render(item, scope) for item in value]
    if isinstance(value, tuple):
        return tuple(render(item, scope) for item in value)
    return value


_END = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\}\}|[{}]|\{\{""", re.DOTALL)
"""What matters while looking for the end: quoted texts are skipped, braces of mappings are counted."""


class Piece(Struct, frozen=True):
    """A literal text, or an expression.

    Attributes:
        at: Offset of its first character in the whole text.
    """

    text: str
    at: int
    is_expression: bool


class Cut(Struct, frozen=True):
    """A text in pieces.

    Attributes:
        unclosed: Offset of a `{{` without its `}}`, or -1.
        statement: Offset of a `{%`, or -1.
    """

    pieces: tuple[Piece, ...]
    unclosed: int = -1
    statement: int = -1


def cut(text: str) -> Cut:
    """Cut a text at its `{{ … }}`; a single blank inside the braces belongs to them."""
    pieces: list[Piece] = []
    here, statement = 0, -1
    while True:
        start = text.find("{{", here)
        literal = text[here:] if start < 0 else text[here:start]
        if "{%" in literal and statement < 0:
            statement = here + literal.index("{%")
        if literal:
            pieces.append(Piece(literal, here, is_expression=False))
        if start < 0:
            return Cut(tuple(pieces), statement=statement)
        end = _end(text, start + 2)
        if end < 0:
            return Cut((*pieces, Piece(text[start:], start, is_expression=False)), start, statement)
        inner = text[start + 2 : end]
        lead = len(inner) - len(inner.lstrip())
        pieces.append(Piece(inner.strip(), start + 2 + lead, is_expression=True))
        here = end + 2


def _end(text: str, here: int) -> int:
    """Offset of the `}}` that closes an expression, or -1."""
    depth = 0
    for token in _END.finditer(text, here):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
        elif token[0] == "}}":
            if depth <= 0:
                return token.start()
            depth -= 2
            if depth < 0:  # the first brace closed a mapping, the second is half of the end
                return token.start() + 1 if text.startswith("}", token.end()) else -1
    return -1


_SHORTEST = 4_000
"""Characters; no shorter text was ever cut."""
_MOST = 10_000
"""Items of a list that are checked."""
_SIGN = " bytes left out …\n"


def gap(left_out: int) -> str:
    """What stands for the middle of a text that was cut."""
    return f"\n… {left_out:,}{_SIGN}"


def unseen_in(references: Iterable[Reference], scope: Mapping[str, Any]) -> str:
    """Why the first reference that is not known is not: its text was cut, or could not be read; empty when all are."""
    for reference in references:
        why = "" if reference.called else _why(reference, scope)
        if why:
            written = ".".join((reference.name, *reference.path)).replace(f".{ITEM}", ITEM)
            return f"`{written}` {why}"
    return ""


def _why(reference: Reference, scope: Mapping[str, Any]) -> str:
    """Of a list that is subscripted, any item may be meant."""
    found = [scope.get(reference.name)]
    for step in reference.path:
        if step == ITEM:
            found = [item for value in found for item in _items(value)]
            continue
        owners = [value for value in found if isinstance(value, Struct | Mapping)]
        unread = next(filter(None, (_field(owner, f"{step}_error") for owner in owners)), "")
        if unread and isinstance(unread, str) and all(_field(owner, step) is None for owner in owners):
            return f"could not be read: {unread}"
        found = [_field(owner, step) for owner in owners]
    return "was cut: only its beginning and its end were kept" if any(map(_is_cut, found)) else ""


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value[:_MOST]
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, Struct):
        yield from (getattr(value, name) for name in value.__struct_fields__)


def _field(owner: Any, name: str) -> Any:
    return owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)


def _is_cut(value: Any) -> bool:
    """Whether a text was cut, or a result of which a text was, or one of several such results."""
    if isinstance(value, str):
        return len(value) >= _SHORTEST and _SIGN in value
    if isinstance(value, list | tuple):
        return any(_is_result(item) and _is_cut(item) for item in value[:_MOST])
    return _is_result(value) and any(isinstance(item, str) and _is_cut(item) for item in _items(value))


def _is_result(value: Any) -> bool:
    return isinstance(value, Struct | Mapping) and bool(_field(value, "truncated"))
