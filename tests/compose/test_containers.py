"""The shipped runbooks on the compose project itself: containers of images that were built on this machine.

The engine runs in a network namespace of its own, with the platform's own ports, so nothing outside notices it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from local_images import BASE, build_missing, docker, engine, need_all
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compose")]

ROOT = Path(__file__).parent.parent.parent
PREFIX = "k2run-test"
LIMIT_S = 400.0
NOT_THERE = {
    "C09 Grafana answers and its database is ok",
    "C13 The notebook runs from start to finish without errors",
    "The backup materials are made",
    "C21 The quick reference fits two pages",
    "C25 The recorded demo has every section and is long enough",
    "C27 Screenshot … is there in full size",
}
"""Steps of demo-day for which `local.yml` has no service."""
READY = {"object-store": {"http": "http://localhost:{{ minio_port }}/healthz", "within": "2m"}}
"""Probes of services in `local.yml` that are another program than in `docker-compose.yml`: only MinIO has MinIO's."""
NUMBERS = ("C14", "C15", "C16")
"""How the names of those begin that judge latencies; they are for a machine that does nothing else."""
NOT_WRITTEN = {"consumer-not-committing", "consumer-crashed"}
"""What is recognised as well when the storage is away for a while: the consumer tries for 30 s and then ends."""
FAULTS = """\
runbook: 1
kind: scenario
name: container-faults
title: Faults on containers
owner: platform
steady_state:
  - name: The table has a trade from the last seconds
    http.get: {service: api, path: /v1/trades, params: {symbol: ETHUSDT, limit: 1}}
    until: (result.body.data[0].timestamp | age) < 5
    within: 120s
sections:
  - name: Break
    steps:
      - {name: The stream is killed, service.kill: {service: stream}}
      - {name: Prometheus is stopped, service.stop: {service: prometheus}}
      - {name: The API is paused, service.pause: {service: api}}
      - {name: The consumer is cut off, docker.disconnect: {container: PREFIX-consumer, network: PREFIX-network}}
      - {name: The broker has less, docker.limit: {container: PREFIX-kafka, memory: 900MiB, cpus: 0.8}}
      - {name: The processor is busy, host.hog_cpu: {workers: 1, at_most: 60s}}
      - {name: The disk is fuller, host.fill_disk: {size: 50MiB}}
      - name: All is as broken as it should be
        docker.ps: {name: "PREFIX-*"}
        expect: result.running == 7
      - name: The broker is limited
        docker.inspect: {container: PREFIX-kafka}
        expect: [result.memory_limit == 900 * 1024 * 1024, result.cpu_limit == 0.8]
      - name: The consumer is on no network
        service.status: {service: consumer}
        expect: result.state == "unhealthy"
      - {name: It stays so for a while, wait: {for: HOLDs}}
""".replace("PREFIX", PREFIX)


class Platform(Struct, frozen=True):
    """The compose project, up, and how k2run is called beside it."""

    host: str
    prefix: tuple[str, ...]
    folder: Path
    environment: dict[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [*self.prefix, sys.executable, "-m", "k2run", *words, "--stack", str(self.folder / "stack.yaml")]
        # The folder of a run is told on its last line; errors come by the other stream.
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def call(self, *words: str) -> tuple[int, str]:
        running = self.start(*words)
        try:
            said, wrong = running.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            running.terminate()
            raise
        return running.returncode, said + wrong

    def containers(self) -> dict[str, Any]:
        """What must be the same before and after: what runs, on which networks and names, with which limits."""
        names = docker(self.host, "ps", "-a", "--format", "{{.Names}}").stdout.split()
        return {one["Name"]: _lasting(one) for one in json.loads(docker(self.host, "inspect", *names).stdout)}


def _lasting(container: dict[str, Any]) -> dict[str, Any]:
    limits, networks = container["HostConfig"], container["NetworkSettings"]["Networks"]
    return {
        "id": container["Id"],
        "state": {key: container["State"][key] for key in ("Status", "Paused", "OOMKilled")},
        "restarts": container["RestartCount"],
        "networks": {name: sorted(link["Aliases"] or []) for name, link in networks.items()},
        "ports": container["NetworkSettings"]["Ports"],
        "cores": max(0, limits["CpuQuota"]) or limits["NanoCpus"],
    }


@pytest.fixture(scope="module")
def namespace() -> Iterator[tuple[str, ...]]:
    """The words that call a program in a network namespace of the tests' own."""
    need_all()
    name = f"k2run-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr}")
    # Not `ip netns exec`: that hides the control groups.
    enter = ("nsenter", f"--net=/run/netns/{name}")
    try:
        subprocess.run([*enter, "ip", "link", "set", "lo", "up"], check=True)
        yield enter
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.fixture(scope="module")
def platform(namespace: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Kafka, registries, Prometheus, stream, consumer and API, brought up by `k2run up`."""
    build_missing()
    folder, local = tmp_path_factory.mktemp("platform"), ROOT / "tests" / "compose" / "local.yml"
    with engine(namespace) as host:
        stack = yaml.safe_load((ROOT / "runbooks" / "stacks" / "compose.yaml").read_text())
        present = yaml.safe_load(local.read_text())["services"]
        stack["services"] = {name: one for name, one in stack["services"].items() if name in {*present, "broker"}}
        for name, probe in READY.items():
            stack["services"][name]["ready"] = probe
        stack |= {"compose": str(local), "data_path": str(ROOT / "runbooks" / "data-path.yaml")}
        stack["connections"]["docker"] = {"url": host}
        (folder / "stack.yaml").write_text(yaml.safe_dump(stack))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("K2_", "K2RUN_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DOCKER_BUILDKIT": "0",
            "DOCKER_HOST": host,
            "COMPOSE_PROJECT_NAME": PREFIX,
            "K2RUN_HOME": str(folder / "home"),
            "K2_BASE": BASE,
            "K2_BUILD_NETWORK": "host",
            "K2_PREFIX": PREFIX,
        }
        found = Platform(host, namespace, folder, environment)
        compose = shutil.which("docker-compose", path=environment["PATH"])
        if compose is None:
            pytest.skip("docker-compose is not installed")
        try:
            code, said = found.call("up", "--timeout", f"{LIMIT_S:g}")
            assert code == 0, said
            yield found
        finally:
            down = [compose, "-f", str(local), "down", "--volumes", "--timeout", "1"]
            subprocess.run(down, env=environment, check=False, capture_output=True, timeout=60)


def runs(platform: Platform) -> set[Path]:
    """The folders of all runs so far."""
    return set((platform.folder / "home" / "runs").glob("*"))


def ends(run: Path) -> list[dict[str, Any]]:
    """The steps of a run that have ended, as its journal has them."""
    journal = run / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True) if journal.is_file() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in events if event["event"] == "step_finished"]


def test_faults_on_containers_are_undone_and_nothing_else_has_changed(platform: Platform) -> None:
    before = platform.containers()
    (platform.folder / "faults.yaml").write_text(FAULTS.replace("HOLD", "1"))
    code, said = platform.call("run", str(platform.folder / "faults.yaml"), "--plain")
    assert code == 0, said
    assert platform.containers() == before


def test_what_a_killed_k2run_broke_is_put_back_by_undo(platform: Platform) -> None:
    before = platform.containers()
    (platform.folder / "faults.yaml").write_text(FAULTS.replace("HOLD", "300"))
    earlier = runs(platform)
    running = platform.start("run", str(platform.folder / "faults.yaml"), "--plain")
    end = time.monotonic() + LIMIT_S / 4
    while "The consumer is on no network" not in [
        step["name"] for run in runs(platform) - earlier for step in ends(run)
    ]:
        assert time.monotonic() < end
        assert running.poll() is None, running.communicate()
        time.sleep(0.2)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    broken = platform.containers()
    assert broken[f"/{PREFIX}-api"]["state"]["Paused"]
    assert broken[f"/{PREFIX}-consumer"]["networks"] == {}
    code, said = platform.call("undo")
    assert code == 0, said
    assert platform.containers() == before


@pytest.mark.parametrize(
    ("how", "first", "after"),
    [
        ("kill PREFIX-stream", "stream-down", set()),
        ("pause PREFIX-api", "api-down", set()),
        ("network disconnect PREFIX-network PREFIX-consumer", "consumer-stuck", set()),
        ("kill PREFIX-kafka", "broker-down", set()),
        ("kill PREFIX-schema-registry-1", "schema-registry-node-down", set()),
        ("kill PREFIX-postgres", "catalog-database-down", NOT_WRITTEN),
        ("pause PREFIX-postgres", "catalog-database-down", NOT_WRITTEN),
        ("kill PREFIX-minio", "object-store-down", {"table-unavailable", *NOT_WRITTEN}),
        ("network disconnect PREFIX-network PREFIX-iceberg-rest", "catalog-down", NOT_WRITTEN),
    ],
)
def test_what_is_broken_by_hand_is_recognised_and_recovered_from(
    platform: Platform, how: str, first: str, after: set[str]
) -> None:
    before = platform.containers()
    end = time.monotonic() + 20
    # A busy machine may not freeze a container at the first try.
    while docker(platform.host, *how.replace("PREFIX", PREFIX).split(), check=False).returncode:
        assert time.monotonic() < end
    code, said = platform.call("diagnose", "--json")
    assert code == 1, said
    suspects = json.JSONDecoder().raw_decode(said)[0]["suspects"]
    found = [one["runbook"] for one in suspects if one["verdict"] == "matches"]
    assert found[:1] == [first], said
    assert set(found[1:]) <= after, said
    code, said = platform.call("recover", "--auto")
    assert code == 0, said
    assert "MISSED" not in said
    assert "is healthy" in said
    assert platform.containers() == before


@pytest.mark.parametrize("scenario", ["catalog-outage", "object-store-outage", "registry-down", "cascading"])
def test_an_outage_of_the_storage_loses_nothing_in_containers(platform: Platform, scenario: str) -> None:
    before = platform.containers()
    code, said = platform.call("run", str(ROOT / "runbooks" / "scenarios" / f"{scenario}.yaml"), "--plain")
    assert code == 0, said
    assert platform.containers() == before


def test_demo_day_passes_on_containers(platform: Platform) -> None:
    before, earlier = platform.containers(), runs(platform)
    _, said = platform.call("run", str(ROOT / "runbooks" / "demo-day.yaml"), "--plain", "-e", "backlog=510000")
    found: dict[str, set[str]] = {}
    [run] = runs(platform) - earlier
    for end in ends(run):
        found.setdefault(end["outcome"], set()).add(end["name"])
    wrong = found.get("failed", set()) | found.get("unknown", set()) | found.get("skipped", set())
    assert [name for name in wrong if not name.startswith(NUMBERS)] == [], said
    assert found["not_applicable"] == NOT_THERE
    assert len(found["passed"]) >= 35, said
    assert platform.containers() == before
