"""Values of an experiment: configuration, secrets, texts with `${name}`; and remarks on what was not carried over.

Written as YAML with comments.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from textwrap import indent
from typing import TYPE_CHECKING, Any

import yaml

from k2run.language.nodes import plain_value
from k2run.language.vocabulary import FUNCTIONS, RESERVED

if TYPE_CHECKING:
    from collections.abc import Mapping


_NAME = re.compile(r"\$\$|\$\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)", re.ASCII)
_BRACES = re.compile(r"\{\{|\{%")
_TYPES = {"int": ("integer", int), "float": ("number", float), "bool": ("boolean", bool), "str": ("string", str)}
_WIDTH = 110
_FLOW = 80
"""Characters of a mapping that still fits one line."""


@dataclass
class Notes:
    """Collects remarks while an experiment is converted.

    Attributes:
        said: Every remark, with the name of what it is about.
    """

    said: list[tuple[str, str]] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def say(self, about: str, remark: str) -> None:
        """Note that something was not carried over, or means something else in a runbook."""
        self.said.append((about, remark))
        self._open.append(remark)

    def take(self) -> list[str]:
        """The remarks since the last time, for the comments at one place."""
        taken, self._open = self._open, []
        return taken


class Texts:
    """Rewrite values of an experiment for a runbook.

    Args:
        names: The names of an experiment's configuration and secrets, with those that they have in the runbook.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._unknown: list[str] = []

    def take_unknown(self, shell_text: str = "") -> list[str]:
        """The names since the last time that neither the configuration nor the secrets have.

        Args:
            shell_text: What a shell reads: variables of the environment, and those it sets itself, are its own.
        """
        taken, self._unknown = self._unknown, []
        own = re.compile(r"\b(?:for|read)\s+(\w+)|\b(\w+)=", re.ASCII)
        set_there = {name for found in own.findall(shell_text) for name in found}
        return [name for name in dict.fromkeys(taken) if not shell_text or not (name.isupper() or name in set_there)]

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
            written = match[1] or match[2] or ""
            name = self._names.get(written)
            if written and name is None:
                self._unknown.append(written)
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


@dataclass
class Settings:
    """What an experiment is set up with.

    Attributes:
        configuration: The runbook's name of each value of the configuration.
        secrets: The runbook's name of each secret, group by group.
    """

    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """The runbook's name of everything that `${name}` may mean; the configuration comes first."""
        flat = {name: own for group in self.secrets.values() for name, own in group.items()}
        return {**flat, **self.configuration}


def read_settings(experiment: dict[str, Any], notes: Notes) -> Settings:
    """Read `configuration` and `secrets`."""
    made = Settings()
    for name, value in mapping(experiment.get("configuration")).items():
        own = made.configuration[name] = _own_name(name, made, notes)
        _setting(made, own, name, value, notes)
    for group, members in mapping(experiment.get("secrets")).items():
        for name, value in mapping(members).items():
            own = _own_name(name, made, notes)
            made.secrets.setdefault(group, {})[name] = own
            made.inputs[own] = _secret(f"{group}.{name}", value, notes)
    return made


def _setting(made: Settings, own: str, name: str, value: Any, notes: Notes) -> None:
    if isinstance(value, dict) and value.get("type") == "env":
        made.inputs[own] = _from_environment(name, value, notes)
    elif isinstance(value, dict) and value.get("type") == "probe":
        notes.say(name, f"the value of {name} came from a probe; it must be given with -e")
        made.inputs[own] = {"type": "string", "required": True, "help": f"configuration {name} of the experiment"}
    elif isinstance(value, bool | int | float | str) and "$" not in str(value):
        kind = next(kind for kind, python in _TYPES.values() if type(value) is python)
        made.inputs[own] = {"type": kind, "default": value, "help": f"configuration {name} of the experiment"}
    else:
        made.vars[own] = value


def _from_environment(name: str, value: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """An input whose default is that of the environment variable, or which is read from it as a secret is."""
    key = value.get("key", name)
    told = f"configuration {name} of the experiment"
    kind, python = _TYPES.get(str(value.get("env_var_type") or "str"), _TYPES["str"])
    if "default" not in value:
        if kind != "string":
            notes.say(name, f"{name} came from ${key} as {kind}; it must be given: -e {name}=${key}")
            return {"type": kind, "required": True, "help": told}
        return {"type": "secret", "default": f"env:{key}", "help": f"{told}, from the environment"}
    notes.say(name, f"{name} came from ${key} where that was set; give it with -e {name}=${key}")
    return {"type": kind, "default": python(value["default"]), "help": told}


def _secret(name: str, value: Any, notes: Notes) -> dict[str, Any]:
    told = f"secret {name} of the experiment"
    if isinstance(value, dict) and value.get("type") == "env":
        return {"type": "secret", "default": f"env:{value.get('key', name)}", "help": told}
    what = f"of type {value.get('type')}" if isinstance(value, dict) else "in plain text"
    notes.say(name, f"the secret {name} was {what}; it must be given: -e NAME=env:VARIABLE, or give it a default")
    return {"type": "secret", "required": True, "help": told}


def _own_name(name: str, made: Settings, notes: Notes) -> str:
    """A name that expressions may use."""
    own = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_") or "value"
    if own[0].isdigit() or own in RESERVED or own in FUNCTIONS:
        own = f"the_{own}"
    while own in made.inputs or own in made.vars:
        own += "_"
    if own != name:
        notes.say(name, f"the name {name} became {own}")
    return own


def mapping(value: Any) -> dict[str, Any]:
    """The value, if it is a mapping; else an empty one."""
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Part:
    """A step, or a key of the runbook, with the comments above it."""

    value: dict[str, Any]
    comments: list[str] = field(default_factory=list)


class _Block(dict[str, Any]):
    """A mapping with a line for each key."""


class _Dumper(yaml.SafeDumper):
    """Writes what YAML 1.2 reads back as the same value."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's interface
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's interface
        """Indent lists below their key, as the runbooks that ship do."""
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if "\n" in value:
        style = "|"
    elif not isinstance(plain_value(value), str):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _dict(dumper: yaml.SafeDumper, value: dict[str, Any]) -> yaml.MappingNode:
    plain = all(isinstance(item, str | int | float | None) and "\n" not in str(item) for item in value.values())
    flow = plain and len(str(value)) < _FLOW
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=flow)


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    plain = all(isinstance(item, str | int | float | None) and "\n" not in str(item) for item in value)
    flow = plain and len(str(value)) < _FLOW
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flow)


def _block(dumper: yaml.SafeDumper, value: _Block) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=False)


_Dumper.add_representer(_Block, _block)
_Dumper.add_representer(str, _text)
_Dumper.add_representer(dict, _dict)
_Dumper.add_representer(list, _list)


def written(part: Part) -> str:
    """Keys and values, one a line, below their comments."""
    return "".join(_comments(part.comments)) + yaml.dump(
        _Block(part.value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH
    )


def listed(parts: list[Part]) -> str:
    """Steps as the items of a list."""
    return "".join("".join(_comments(part.comments)) + _item(written(Part(part.value))) for part in parts)


def _item(text: str) -> str:
    return "- " + indent(text, "  ").removeprefix("  ")


def _comments(comments: list[str]) -> list[str]:
    return [f"# {line}\n" for comment in comments for line in comment.splitlines()]
