"""A stack file before it is written: services and connections as they were found, with notes for its author."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from msgspec import Struct, field

if TYPE_CHECKING:
    from k2run.stack.model import RunBy

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
EXPLAINED = """\
# yaml-language-server: $schema={schema}
#
# {title}: which services it has, how each is run, how to tell that it is ready, and how actions reach it.
#   k2run validate {file}   finds every mistake
#   k2run status --stack {name}      looks at every service
# docs/stacks.md has every key. A secret never stands here: write where it is, `secret('env:NAME')`.
stack: 1
name: {name}
title: {title}
# protected: true         # faults and changes of data are refused, but for the runbooks in `allow`
"""


class ServiceDraft(Struct, kw_only=True):
    """A service as it was found.

    Attributes:
        name: Its name.
        run: Who runs it.
        note: Where it comes from, or what its author still has to say; a comment in the file.
        command: Of a process: program and arguments.
        container: Of a container: its name.
        ports: The ports at which this machine reaches it.
        inner_ports: Ports within its container, each with the one at which this machine reaches it.
        url: Its base URL.
        metrics: The URL of its metrics.
        ready: How to tell that it is ready.
        needs: Services that are started before it.
    """

    name: str
    run: RunBy
    note: str = ""
    command: list[str] = []
    container: str = ""
    ports: list[int] = []
    inner_ports: dict[int, int] = field(default_factory=dict)
    url: str = ""
    metrics: str = ""
    ready: dict[str, Any] = field(default_factory=dict)
    needs: list[str] = []

    def lines(self) -> list[str]:
        """Its part of the stack file."""
        said = {
            "run": self.run.value,
            "command": self.command,
            "container": self.container,
            "ports": self.ports,
            "url": self.url,
            "metrics": self.metrics,
            "ready": self.ready,
            "needs": self.needs,
        }
        note = f"  # {self.note}" if self.note else ""
        return [
            f"  {in_yaml(self.name)}:{note}",
            *(f"    {key}: {in_yaml(value)}" for key, value in said.items() if value),
        ]


class StackDraft(Struct, kw_only=True):
    """A stack as it was found.

    Attributes:
        services: Its services, in the order of the file.
        connections: Settings by connection.
        notes: A word on each connection.
        compose: Its compose file, from the stack file; empty when there is none.
    """

    services: list[ServiceDraft] = field(default_factory=list)
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    compose: str = ""

    def text(self, *, name: str, title: str, file: str, schema: str) -> str:
        """The stack file.

        Args:
            name: Of the stack.
            title: What people call it.
            file: Where it will stand.
            schema: Where editors find the schema of stack files.
        """
        lines = EXPLAINED.format(name=name, title=in_yaml(title), file=file, schema=schema).splitlines()
        if self.compose:
            lines.append(f"compose: {in_yaml(self.compose)}")
        if self.connections:
            lines += ["", "connections:"]
        for key, settings in self.connections.items():
            note = f"  # {self.notes[key]}" if key in self.notes else ""
            lines += [f"  {key}:{note}", *(f"    {field}: {in_yaml(value)}" for field, value in settings.items())]
        lines += ["", "services:"]
        for service in self.services:
            lines += service.lines()
        return "\n".join(lines) + "\n"


def in_yaml(value: Any) -> str:
    """A value as YAML on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )


def name_of(text: str) -> str:
    """A text as the name of a service: `kafka/broker:1` is `kafka-broker-1`."""
    return _NOT_IN_NAMES.sub("-", text).strip("-._") or "service"
