"""A working platform that k2run does not run: nothing is written to it, and nothing is said of it that was not seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from moved_ports import moved_ports, variables

from k2run.engine.events import StepFinished
from k2run.engine.journal import read_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNBOOKS = Path(__file__).parents[2] / "runbooks"
FOREIGN = """\
stack: 1
name: foreign
platform: k2
data_path: {runbooks}/data-path.yaml
connections:
  kafka: {{bootstrap: "127.0.0.1:{KAFKA}"}}
  iceberg:
    type: rest
    uri: "http://127.0.0.1:{ICEBERG}"
    namespace: market_data
    properties:
      s3.endpoint: "http://127.0.0.1:{OBJECT_STORE}"
      s3.access-key-id: admin
      s3.secret-access-key: password
      s3.region: us-east-1
      s3.force-virtual-addressing: "false"
services:
  broker: {{run: external, ready: {{tcp: "127.0.0.1:{KAFKA}"}}}}
  stream: {{run: external}}
  consumer:
    run: external
    metrics: "http://127.0.0.1:{CONSUMER_METRICS}/metrics"
    ready: {{http: "http://127.0.0.1:{CONSUMER_METRICS}/metrics"}}
  api:
    run: external
    url: "http://127.0.0.1:{API}"
    headers: {{X-API-Key: k2-dev-api-key-2026}}
    ready: {{http: "http://127.0.0.1:{API}/health"}}
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """Runs k2run beside the embedded platform as one that others run: every service is external, the stream unseen."""
    folder = tmp_path_factory.mktemp("foreign")
    ports = moved_ports()
    home = folder / "home"
    environment = variables(ports) | {"K2RUN_HOME": str(home)}
    (folder / "stacks").mkdir()
    (folder / "stacks" / "foreign.yaml").write_text(FOREIGN.format(runbooks=RUNBOOKS, home=home, **ports))

    def k2run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "k2run"), *words],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = k2run("up", "--stack", "sandbox")
    assert code == 0, said
    yield lambda *words: (*k2run(*words), home)
    k2run("down", "--stack", "sandbox")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["consumer-crash", "high-lag", "broker-restart", "stream-stall", "api-failing"])
def test_a_scenario_whose_faults_cannot_be_injected_judges_and_writes_nothing(foreign: Callable, name: str) -> None:
    code, said, home = foreign("run", str(RUNBOOKS / "scenarios" / f"{name}.yaml"), "--stack", "foreign", "--plain")
    assert (code, "NOT APPLICABLE" in said, "PASSED" in said, "FAILED" in said) == (7, True, False, False), said
    newest = max((home / "runs").iterdir())
    assert not [event for event in read_journal(newest) if isinstance(event, StepFinished) and event.changed]


@pytest.mark.slow
def test_a_working_platform_is_healthy_as_far_as_it_is_seen(foreign: Callable) -> None:
    _, said, _ = foreign("diagnose", "--stack", "foreign", "--json", "--for", "8s")
    found = json.loads(said)
    named = {one["runbook"]: one["verdict"] for one in found["suspects"]}
    assert (named["stream-down"], named["stream-stalled"]) == ("cannot_say", "cannot_say")
    assert found["not_seen"] == ["stream: no probe"]
    assert [one["presence"] for one in found["data_path"]] == ["present"]
