"""Fills in the `{{ }}` of a stack file, when a value is read and not before.

The two forms that nearly every stack file gets by with, `{{ name }}` and `{{ env('NAME', default) }}`, are read
here, the default a literal or a name; all else is Jinja2, which is imported only for that. A text that is one `{{ }}`
as a whole keeps the type of its value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from k2run.errors import StackInvalid

if TYPE_CHECKING:
    from jinja2 import Environment

    from k2run.language.document import Trail
    from k2run.language.problems import Place

Lookup = Callable[[str], Any]
"""The value of a name; raises KeyError for an unknown one."""

_LITERAL = r"'[^'\\{}]*'|\"[^\"\\{}]*\"|-?\d+"
_SIMPLE = re.compile(
    rf"\{{\{{\s*(?:(?P<name>[A-Za-z_]\w*)"
    rf"|env\(\s*(?P<variable>{_LITERAL})\s*(?:,\s*(?:(?P<default>{_LITERAL})|(?P<other>[A-Za-z_]\w*))\s*)?\))\s*\}}\}}"
)
_WHOLE = re.compile(r"\{\{((?:(?!\{\{|\}\}).)*)\}\}", re.DOTALL)


class Renderer:
    """Renders the texts of one stack file."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._jinja: Environment | None = None

    def render(self, text: str) -> Any:
        """The value of a text.

        Raises:
            StackInvalid: It cannot be rendered; the message says why, the caller knows where.
            KeyError: A name is unknown.
        """
        if not has_template(text):
            return text
        whole = _SIMPLE.fullmatch(text.strip())
        if whole is not None:
            return self._simple(whole)
        rest = _SIMPLE.sub("", text)
        if not has_template(rest) and "}}" not in rest:
            return _SIMPLE.sub(lambda match: str(self._simple(match)), text)
        return self._with_jinja(text)

    def _simple(self, match: re.Match[str]) -> Any:
        if match["name"]:
            return self._lookup(match["name"])
        variable, default = _literal(match["variable"]), match["default"]
        if match["other"]:
            return env(variable, self._lookup(match["other"]))
        return env(variable, None if default is None else _literal(default))

    def _with_jinja(self, text: str) -> Any:
        from jinja2 import TemplateError, Undefined, meta

        jinja = self._environment()
        try:
            names = meta.find_undeclared_variables(jinja.parse(text)) - jinja.globals.keys()
            scope = {name: self._lookup(name) for name in sorted(names)}
            whole = _WHOLE.fullmatch(text.strip())
            if whole is not None:
                value = jinja.compile_expression(whole[1], undefined_to_none=False)(**scope)
                if isinstance(value, Undefined):
                    str(value)  # raises, and says what is undefined
                return value
            return jinja.from_string(text).render(scope)
        except TemplateError as error:
            raise StackInvalid(f"the template cannot be filled in: {error.message}") from error
        except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
            if isinstance(error, KeyError):
                raise
            raise StackInvalid(f"the template cannot be filled in: {error}") from error

    def _environment(self) -> Environment:
        if self._jinja is None:
            from jinja2 import StrictUndefined
            from jinja2.sandbox import ImmutableSandboxedEnvironment

            self._jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
            self._jinja.globals = {"env": env, "secret": self._lookup("secret")}
        return self._jinja


class Missing(StackInvalid):
    """A value is missing on this machine; the stack file itself is right."""


def has_template(text: str) -> bool:
    """Whether a text has anything to fill in."""
    return "{{" in text or "{%" in text


def env(name: Any, default: Any = None) -> Any:
    """An environment variable, or the default.

    Raises:
        Missing: It is not set and there is no default.
    """
    value = os.environ.get(str(name))
    if value:
        return value
    if default is None:
        raise Missing(f"the environment variable {name} is not set", hint=f"export {name}=…, or give a default")
    return default


def _literal(text: str) -> str | int:
    return text[1:-1] if text[0] in "'\"" else int(text)


class MissingValue(StackInvalid):
    """A value of a stack file cannot be filled in.

    Attributes:
        said: Why, without the place.
        missing: This machine lacks something; the file itself is right.
    """

    def __init__(self, place: Place, trail: Trail, cause: StackInvalid) -> None:
        super().__init__(f"{place}: {cause.message}", hint=cause.hint)
        self.trail = trail
        self.said = cause.message
        self.missing = isinstance(cause, Missing)


class LazyValues(Mapping[str, Any]):
    """A mapping whose values are made when they are asked for."""

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
