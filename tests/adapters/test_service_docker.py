from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.service import actions
from k2run.adapters.service.actions import roll_call
from k2run.errors import K2runError, NotApplicable, Refused, StackUnavailable, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.services import Services
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from docker import DockerClient

    from k2run.actions.action import Striking, Undo

SOON = 15.0
SLEEPER = ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo level=INFO up; while true; do sleep 0.1; done"]


def soon() -> Deadline:
    return Deadline(SOON)


def strike(fault: Striking[Any]) -> tuple[list[Undo], Any]:
    undos = []
    try:
        while True:
            undos.append(next(fault))
    except StopIteration as end:
        return undos, end.value


def stack_on(folder: Path, host: str, *containers: str) -> Services:
    services = "".join(f"  {name.rpartition('-')[2]}: {{run: docker, container: {name}}}\n" for name in containers)
    services += "  absent: {run: docker, container: nosuch}\n"
    (folder / "bench.yaml").write_text(f"stack: 1\nconnections: {{docker: {{url: '{host}'}}}}\nservices:\n{services}")
    return Services.of(load_stack(str(folder / "bench.yaml"), near=None, home=folder / "home", overrides={}))


@pytest.fixture(scope="module")
def engine(docker_host: str) -> Iterator[DockerClient]:
    import docker

    with contextlib.closing(docker.DockerClient(base_url=docker_host)) as client:
        yield client


@pytest.fixture
def contain(engine: DockerClient, docker_image: str) -> Iterator[Callable[..., str]]:
    """Makes a container, not started; all are removed at the end."""
    made = []

    def make(name: str, command: list[str] = SLEEPER, **options: Any) -> str:
        full = f"k2run-{os.getpid()}-{name}"
        options = {"network_mode": "none", **options}
        made.append(engine.containers.create(docker_image, command, name=full, **options))
        return full

    yield make
    for container in made:
        container.remove(force=True)


@pytest.fixture
def services(docker_host: str, contain: Callable[..., str], tmp_path: Path) -> Services:
    """A stack with one service, `api`, that is a container; not started."""
    return stack_on(tmp_path, docker_host, contain("api"))


def test_a_container_is_started_stopped_and_looked_at_like_a_process(services: Services) -> None:
    assert actions.status(services, "api").state == "stopped"
    assert actions.status(services, "absent").state == "absent"
    assert actions.start(services, soon(), "api").changed
    seen = actions.status(services, "api")
    assert (seen.state, seen.restarts) == ("running", 0)
    assert seen.pid
    assert seen.uptime_s is not None
    assert seen.uptime_s < SOON
    assert not actions.start(services, soon(), "api").changed
    [undo], struck = strike(actions.stop(services, soon(), "api"))
    assert struck.state == "stopped"
    assert undo.says == "start api"
    assert actions.status(services, "api").detail == "ended with exit code 0"
    assert actions.logs(services, soon(), "api", pattern="^bye$").matches == 1


@pytest.mark.parametrize("name", ["kill", "stop", "pause"])
def test_a_fault_in_a_container_is_undone_and_the_undo_does_no_harm_twice(services: Services, name: str) -> None:
    actions.start(services, soon(), "api")
    [undo], struck = strike(getattr(actions, name)(services, soon(), "api"))
    assert struck.state == ("paused" if name == "pause" else "stopped")
    put_back = getattr(actions, undo.action.removeprefix("service."))
    assert put_back(services, soon(), **undo.args).changed
    assert actions.status(services, "api").state == "running"
    assert not put_back(services, soon(), **undo.args).changed


def test_a_container_on_no_network_is_unhealthy_and_starting_it_connects_it_again(
    docker_host: str, engine: DockerClient, contain: Callable[..., str], tmp_path: Path
) -> None:
    network = engine.networks.create(f"k2run-{os.getpid()}-cut", driver="bridge")
    try:
        name = contain("cut", network_mode=network.name, labels={"com.docker.compose.service": "cut"})
        services = stack_on(tmp_path, docker_host, name)
        actions.start(services, soon(), "cut")
        network.disconnect(name)
        seen = actions.status(services, "cut")
        assert (seen.state, seen.detail) == ("unhealthy", f"cut off from its network {network.name}")
        assert roll_call(services, soon()).well == []
        assert actions.start(services, soon(), "cut").changed
        assert actions.status(services, "cut").state == "running"
        joined = engine.containers.get(name).attrs["NetworkSettings"]["Networks"]
        assert "cut" in joined[network.name]["Aliases"]
        assert not actions.start(services, soon(), "cut").changed
    finally:
        for container in engine.containers.list(filters={"network": network.id}):
            network.disconnect(container, force=True)
        network.remove()


def test_a_killed_container_ended_by_sigkill(services: Services) -> None:
    actions.start(services, soon(), "api")
    strike(actions.kill(services, soon(), "api"))
    assert actions.status(services, "api").detail == "ended with exit code 137"
    with pytest.raises(Refused, match="is not running"):
        next(actions.kill(services, soon(), "api"))


def test_a_paused_container_can_be_stopped(services: Services) -> None:
    actions.start(services, soon(), "api")
    strike(actions.pause(services, soon(), "api"))
    with pytest.raises(Refused, match="already paused"):
        next(actions.pause(services, soon(), "api"))
    strike(actions.stop(services, soon(), "api"))
    assert actions.status(services, "api").state == "stopped"


def test_a_container_is_restarted(services: Services) -> None:
    before = actions.start(services, soon(), "api")
    after = actions.restart(services, soon(), "api")
    assert after.pid != before.pid


def test_a_container_that_is_not_there_is_not_applicable(services: Services) -> None:
    with pytest.raises(NotApplicable, match="no container nosuch"):
        actions.start(services, soon(), "absent")
    with pytest.raises(NotApplicable, match="no container nosuch"):
        next(actions.kill(services, soon(), "absent"))


def test_the_engine_knows_when_a_line_was_logged(services: Services) -> None:
    actions.start(services, soon(), "api")
    end = time.monotonic() + SOON
    while not actions.logs(services, soon(), "api").matches:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert actions.logs(services, soon(), "api", pattern=r"level=\w+", since=Duration(60)).lines == ["level=INFO up"]
    time.sleep(1.1)
    assert actions.logs(services, soon(), "api", since=Duration(0.5)).matches == 0


def test_what_a_container_uses_is_measured(docker_host: str, contain: Callable[..., str], tmp_path: Path) -> None:
    services = stack_on(tmp_path, docker_host, contain("busy", ["sh", "-c", "while true; do :; done"]))
    actions.start(services, soon(), "busy")
    used = actions.resources(services, soon(), "busy", Duration(0.5))
    assert used.cpu_percent > 10
    assert used.rss > 0
    assert used.processes == 1


def test_a_container_that_fails_its_health_check_is_unhealthy(
    docker_host: str, contain: Callable[..., str], tmp_path: Path
) -> None:
    check = {"test": ["CMD", "test", "-e", "/ok"], "interval": 100_000_000, "retries": 1, "timeout": 2_000_000_000}
    services = stack_on(tmp_path, docker_host, contain("sick", healthcheck=check))
    actions.start(services, soon(), "sick")
    end = time.monotonic() + SOON
    while actions.status(services, "sick").state != State.UNHEALTHY:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert actions.status(services, "sick").detail == "health check: unhealthy"
    assert actions.status(services, "sick").running


def test_a_stack_of_containers_comes_up_and_goes_down(
    docker_host: str, contain: Callable[..., str], tmp_path: Path
) -> None:
    services = stack_on(tmp_path, docker_host, contain("one"), contain("two"))
    assert lifecycle.start(services.stack, ["one", "two"], soon()) == ["one", "two"]
    assert lifecycle.stop(services.stack) == ["one", "two"]
    with pytest.raises(StackUnavailable, match="absent: there is no container nosuch"):
        lifecycle.start(services.stack, None, soon())
    assert [look.status.state for look in lifecycle.status(services.stack)] == [
        State.STOPPED,
        State.STOPPED,
        State.ABSENT,
    ]


def test_a_container_that_dies_while_it_is_started_is_quoted(
    docker_host: str, contain: Callable[..., str], tmp_path: Path
) -> None:
    services = stack_on(tmp_path, docker_host, contain("dying", ["sh", "-c", "echo no such table; exit 3"]))
    with pytest.raises(Refused, match=r"dying ended with exit code 3 .*\n  \| no such table"):
        actions.start(services, soon(), "dying")


def test_an_engine_that_is_not_there_is_told_with_its_address(tmp_path: Path) -> None:
    services = stack_on(tmp_path, f"unix://{tmp_path}/none.sock", "k2-api")
    with pytest.raises(Unknown, match="no Docker engine answers: No such file") as refusal:
        actions.status(services, "api")
    assert "DOCKER_HOST" in str(refusal.value)


def test_an_engine_that_hangs_does_not_outlast_the_deadline(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        services = stack_on(tmp_path, f"tcp://127.0.0.1:{silent.getsockname()[1]}", "k2-api")
        began = time.monotonic()
        with pytest.raises((TimedOut, Unreachable)):
            actions.resume(services, Deadline(1), "api")
        assert time.monotonic() - began < 1.5


def test_an_engine_that_answers_garbage_is_an_error_of_ours(tmp_path: Path) -> None:
    import threading

    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nlol")
                    client.close()

        threading.Thread(target=answer, daemon=True).start()
        services = stack_on(tmp_path, f"tcp://127.0.0.1:{server.getsockname()[1]}", "k2-api")
        with pytest.raises(K2runError):
            actions.resume(services, Deadline(2), "api")
