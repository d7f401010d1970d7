"""Values of an experiment, with their `${name}`, as values and expressions of a runbook."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"\$\$|\$\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)", re.ASCII)
_BRACES = re.compile(r"\{\{|\{%")


class Texts:
    """Writes values anew.

    Args:
        names: The names of an experiment's configuration and secrets, with those that they have in the runbook.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def rendered(self, value: Any) -> Any:
        """A value with `{{ name }}` for each known `${name}`."""
        if isinstance(value, dict):
            return {str(key): self.rendered(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.rendered(item) for item in value]
        if not isinstance(value, str):
            return value
        return "".join(f"{{{{ {part} }}}}" if is_name else _literal(part) for part, is_name in self._parts(value))

    def expression(self, value: Any) -> str:
        """An expression whose value this is."""
        if isinstance(value, dict):
            return "{" + ", ".join(f"{_quoted(str(key))}: {self.expression(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(self.expression(item) for item in value) + "]"
        if isinstance(value, str):
            parts = [part if is_name else _quoted(part) for part, is_name in self._parts(value)]
            return " ~ ".join(parts) or "''"
        return "none" if value is None else json.dumps(value)

    def _parts(self, text: str) -> list[tuple[str, bool]]:
        """The literal pieces and the names of a text; an unknown name stays as it is written."""
        parts: list[tuple[str, bool]] = []
        here = 0
        for match in _NAME.finditer(text):
            name = self._names.get(match[1] or match[2] or "")
            if name is not None or (match[0] == "$$" and self._names):
                parts += [(text[here : match.start()], False), (name, True) if name else ("$", False)]
                here = match.end()
        return [part for part in [*parts, (text[here:], False)] if part[0]]


def _literal(text: str) -> str:
    """A text in which braces mean nothing."""
    return _BRACES.sub(lambda match: f"{{{{ '{match[0]}' }}}}", text)


def _quoted(text: str) -> str:
    """A text as a literal of an expression."""
    return f"'{text}'" if text.isprintable() and not set(text) & {"'", "\\"} else json.dumps(text, ensure_ascii=False)
