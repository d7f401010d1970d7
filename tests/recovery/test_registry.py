"""What is wrong with the schema registry is told apart: one node, both, or their state."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from wheel_programs import free_ports

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.k2.platform import schemas
from k2run.language.loader import load_runbook
from k2run.recovery.looks import diagnose
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(__file__).parents[2] / "runbooks" / "recovery"
SUBJECT = "market.crypto.trades-value"
STACK = """\
stack: 1
name: nodes
platform: k2
roles: {{subject: {subject}}}
connections:
  schema_registry: {{url: "http://127.0.0.1:{one}", nodes: ["http://127.0.0.1:{other}"]}}
services:
  schema-registry-1: {{run: process, url: "http://127.0.0.1:{one}", ports: [{one}],
    command: [python, -m, k2run.k2.platform.registry, --port={one}, "--state={{{{ state }}}}/registry/schemas.db"],
    ready: {{http: "http://127.0.0.1:{one}/subjects", within: 60s}}}}
  schema-registry-2: {{run: process, url: "http://127.0.0.1:{other}", ports: [{other}],
    command: [python, -m, k2run.k2.platform.registry, --port={other}, "--state={{{{ state }}}}/registry/schemas.db"],
    ready: {{http: "http://127.0.0.1:{other}/subjects", within: 60s}}}}
"""


class Nodes:
    """Two nodes of the registry as a stack."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        one, other = free_ports(2)
        (folder / "stack.yaml").write_text(STACK.format(one=one, other=other, subject=SUBJECT))
        self.urls = [f"http://127.0.0.1:{one}", f"http://127.0.0.1:{other}"]
        self.state = Path(self.stack().state) / "registry"
        self._catalogue = Catalogue()
        files = sorted(SHIPPED.glob("schema-registry-*.yaml"))
        self._shipped = [load_runbook(file, self._catalogue) for file in files]

    def stack(self):
        return load_stack(str(self._folder / "stack.yaml"), near=None, home=self._folder / "home", overrides={})

    def send(self, number: int, what: signal.Signals) -> None:
        [pid] = [
            look.status.pid
            for look in lifecycle.status(self.stack())
            if look.service.name == f"schema-registry-{number}"
        ]
        os.kill(pid, what)

    def recognised(self) -> list[str]:
        found = diagnose(self._shipped, self.stack(), self._catalogue)
        return [one.runbook for one in found.matches]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes(tmp_path)
    lifecycle.start(found.stack(), None, Deadline(90))
    sent = {"schema": json.dumps(schemas.TRADE)}
    assert httpx.post(f"{found.urls[0]}/subjects/{SUBJECT}/versions", json=sent, timeout=20).status_code == 200
    yield found
    for number in (1, 2):
        found.send(number, signal.SIGKILL)


def test_one_node_both_nodes_and_a_lost_state_are_three_failures(nodes):
    assert nodes.recognised() == []
    nodes.send(2, signal.SIGSTOP)
    assert nodes.recognised() == ["schema-registry-node-down"]
    nodes.send(1, signal.SIGSTOP)
    assert nodes.recognised() == ["schema-registry-down"]
    for number in (1, 2):
        nodes.send(number, signal.SIGCONT)
    aside = nodes.state.rename(nodes.state.with_name("aside"))
    assert nodes.recognised() == ["schema-registry-state-lost"]
    aside.rename(nodes.state)
    assert nodes.recognised() == []
