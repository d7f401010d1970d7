"""Write a converted runbook as YAML with comments."""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import indent
from typing import Any

import yaml

from k2run.language.nodes import plain_value

_WIDTH = 110
_FLOW = 80
"""Characters of a mapping that still fits one line."""


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
