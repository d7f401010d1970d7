"""The compose stack: its file is valid, what it mounts exists and can be read, its rules fire, it can be made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from k2run.actions.deadline import Deadline
from k2run.errors import Interrupted, StackUnavailable
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy" / "compose"
ONCE = {"minio-init"}
"""Services that do something and end."""


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def project() -> dict:
    done = subprocess.run(
        [program("docker-compose"), "-f", str(ROOT / "docker-compose.yml"), "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def made(docker_host: str, container: str) -> str:
    """A stack whose only container Compose makes."""
    return (
        f"stack: 1\nname: made\ncompose: compose.yml\nconnections: {{docker: {{url: '{docker_host}'}}}}\n"
        f"services: {{one: {{run: docker, container: {container}}}}}\n"
    )


def test_compose_reads_the_file(project: dict) -> None:
    assert len(project["services"]) == 13


def test_every_long_running_service_has_a_health_check_and_a_name(project: dict) -> None:
    for name, service in project["services"].items():
        assert service["container_name"].startswith("k2-"), name
        assert name in ONCE or service["healthcheck"]["test"], name


def test_what_is_mounted_from_the_repository_exists(project: dict) -> None:
    mounts = [m for service in project["services"].values() for m in service.get("volumes", []) if m["type"] == "bind"]
    sources = [Path(mount["source"]) for mount in mounts if Path(mount["source"]).is_relative_to(ROOT)]
    assert len(sources) == 3
    assert [source for source in sources if not source.exists()] == []


def test_the_mounted_files_can_be_read() -> None:
    for path in DEPLOY.rglob("*.yml"):
        assert yaml.safe_load(path.read_text()), path
    for path in DEPLOY.rglob("*.json"):
        assert json.loads(path.read_text())["uid"] == "k2-platform-overview"


def test_the_stack_file_names_the_containers_that_compose_makes(project: dict, tmp_path: Path) -> None:
    stack = load_stack("compose", near=ROOT / "runbooks", home=tmp_path, overrides={})
    made = {service["container_name"] for service in project["services"].values()} - {f"k2-{name}" for name in ONCE}
    assert {service.container for service in stack.services.values()} == made


def test_what_plays_each_part_is_the_same_in_containers_and_in_processes(tmp_path: Path) -> None:
    stacks = [load_stack(name, near=ROOT / "runbooks", home=tmp_path, overrides={}) for name in ("compose", "sandbox")]
    assert stacks[0].roles == stacks[1].roles


def test_prometheus_reads_its_configuration_and_every_rule_fires() -> None:
    promtool = program("promtool")
    for words in (
        ["check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")],
        ["test", "rules", str(Path(__file__).parent / "rules_test.yml")],
    ):
        done = subprocess.run([promtool, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_local_project_watches_what_it_has() -> None:
    whole = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    local = Path(__file__).parent
    services = yaml.safe_load((local / "local.yml").read_text())["services"]
    whole["scrape_configs"] = [
        job for job in whole["scrape_configs"] if job["job_name"].removeprefix("k2-") in services
    ]
    assert yaml.safe_load((local / "prometheus.yml").read_text()) == whole


def test_a_stack_in_containers_is_made_by_compose_and_broken_like_any_other(
    docker_host: str, docker_image: str, tmp_path: Path
) -> None:
    name = f"k2run-test-{tmp_path.name.replace('_', '-')}"
    service = {"image": docker_image, "container_name": name, "command": ["sleep", "600"], "network_mode": "none"}
    (tmp_path / "compose.yml").write_text(json.dumps({"name": name, "services": {"one": service}}))
    text = made(docker_host, name)
    (tmp_path / "stack.yaml").write_text(text)
    compose = program("docker-compose")
    stack = load_stack(str(tmp_path / "stack.yaml"), near=None, home=tmp_path, overrides={})
    try:
        assert lifecycle.start(stack, None, Deadline(60)) == ["one"]
        assert lifecycle.start(stack, None, Deadline(60)) == []
        assert lifecycle.status(stack)[0].status.state == "running"
        assert lifecycle.stop(stack) == ["one"]
        assert lifecycle.start(stack, None, Deadline(60)) == ["one"]
    finally:
        subprocess.run(
            [compose, "-H", docker_host, "-f", str(tmp_path / "compose.yml"), "down", "-t", "1"],
            check=False,
            capture_output=True,
        )


def test_compose_is_ended_when_up_is_told_to_end(
    docker_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "bin" / "docker"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n[ "$2" = version ] && exit 0\necho $$ >{tmp_path}/pid\nsleep 300\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    (tmp_path / "stack.yaml").write_text(made(docker_host, "k2run-none"))
    stack = load_stack(str(tmp_path / "stack.yaml"), near=None, home=tmp_path, overrides={})
    told = threading.Event()

    def tell() -> None:
        while not (tmp_path / "pid").is_file():
            time.sleep(0.05)
        told.set()

    threading.Thread(target=tell, daemon=True).start()
    with pytest.raises(Interrupted):
        lifecycle.start(stack, None, Deadline(60, told))
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_what_compose_says_is_told_when_it_fails(docker_host: str, docker_image: str, tmp_path: Path) -> None:
    program("docker-compose")
    (tmp_path / "compose.yml").write_text("services: {one: {image: no-such-image-here, container_name: k2run-none}}\n")
    text = made(docker_host, "k2run-none")
    (tmp_path / "stack.yaml").write_text(text)
    stack = load_stack(str(tmp_path / "stack.yaml"), near=None, home=tmp_path, overrides={})
    with pytest.raises(StackUnavailable, match=r"made no container for one|failed"):
        lifecycle.start(stack, None, Deadline(60))
