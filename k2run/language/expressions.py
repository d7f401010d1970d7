"""Expressions and templates: what a runbook computes while it runs.

An `Expression` is bare (`result.rows > 1000`). A `Template` is a text with `{{ expression }}` in it; one that is one
expression and nothing else keeps the type of its value. Only `{{ }}` means anything in a text: `{%` is refused, and
`{#` is text.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from k2run.errors import ExpressionFailed
from k2run.language.place import Place
from k2run.language.plain import plain
from k2run.language.syntax import Syntax, read_expression

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        return read_expression(self.text)

    @property
    def names(self) -> frozenset[str]:
        """The names it takes from its scope, functions excluded."""
        return frozenset(reference.name for reference in self.syntax.references if not reference.called)

    def evaluate(self, scope: Mapping[str, Any]) -> Any:
        """Its value, of its own type.

        Raises:
            ExpressionFailed: A name or field is missing, or the values do not fit the operation.
        """
        simply = plain(self.text)
        if simply is not None:
            with suppress(Exception):  # what is out of the ordinary is Jinja2's to judge, and to explain
                return simply(scope)
        try:
            from k2run.language.evaluation import Missing, compiled

            value = compiled(self.text)(scope)
            if isinstance(value, Missing):
                value._fail_with_undefined_error()  # noqa: SLF001 - jinja2's own way to fail
        except Exception as error:  # an expression may raise whatever its values do
            raise self._failure(error, scope) from error
        return value

    def _failure(self, error: Exception, scope: Mapping[str, Any]) -> ExpressionFailed:
        from k2run.language.failures import explain

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
            from k2run.language.pieces import cut

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
