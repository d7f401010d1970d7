from __future__ import annotations

import contextlib
import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.docker import actions
from k2run.errors import NotApplicable, OperatorError, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Size
from k2run.stack.containers import Docker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network

    from k2run.actions.action import Striking, Undo

TESTED_ON = {
    "docker": (
        "a dedicated Docker engine, with an image built there; the slow tests start the [compose "
        "project](compose.md) and run demo-day, faults and recoveries on it"
    )
}

SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"]


def soon() -> Deadline:
    return Deadline(15)


def strike(fault: Striking[Any]) -> tuple[list[Undo], Any]:
    undos = []
    try:
        while True:
            undos.append(next(fault))
    except StopIteration as end:
        return undos, end.value


def play(docker: Docker, undo: Undo) -> Any:
    return getattr(actions, undo.action.removeprefix("docker."))(docker, soon(), **undo.args)


@pytest.fixture(scope="module")
def engine(docker_host: str) -> Iterator[DockerClient]:
    import docker

    with contextlib.closing(docker.DockerClient(base_url=docker_host)) as client:
        yield client


@pytest.fixture
def docker(docker_host: str) -> Docker:
    return Docker(url=docker_host)


@pytest.fixture
def contain(engine: DockerClient, docker_image: str) -> Iterator[Callable[..., Container]]:
    """Starts a container; all are removed at the end."""
    made: list[Container] = []

    def make(name: str, command: list[str] = SLEEPER, network: str = "none", **options: Any) -> Container:
        full = f"k2test-{os.getpid()}-{name}"
        made.append(engine.containers.create(docker_image, command, name=full, network=network, **options))
        made[-1].start()
        made[-1].reload()
        return made[-1]

    yield make
    for container in made:
        container.remove(force=True)


@pytest.fixture
def network(engine: DockerClient, docker_image: str) -> Iterator[Network]:
    made = engine.networks.create(f"k2test-{os.getpid()}", driver="bridge")
    yield made
    for container in engine.containers.list(all=True, filters={"network": made.id}):
        made.disconnect(container, force=True)
    made.remove()


def test_containers_are_listed_by_name_with_what_they_are_doing(
    docker: Docker, contain: Callable[..., Container]
) -> None:
    contain("one")
    contain("two", ["false"]).wait()
    seen = actions.ps(docker, soon(), f"k2test-{os.getpid()}-*")
    assert (seen.count, seen.running) == (2, 1)
    assert seen.not_running == [f"k2test-{os.getpid()}-two"]
    assert seen.headline() == "1 of 2 containers run"
    assert actions.ps(docker, soon(), f"k2test-{os.getpid()}-*", all=False).count == 1
    with pytest.raises(Unknown, match="no container k2-nothing"):
        actions.ps(docker, soon(), "k2-nothing")


def test_a_failing_health_check_is_told_in_the_list(docker: Docker, contain: Callable[..., Container]) -> None:
    check = {"test": ["CMD", "test", "-e", "/ok"], "interval": 100_000_000, "retries": 1, "timeout": 2_000_000_000}
    name = contain("sick", healthcheck=check).name or ""
    end = time.monotonic() + 15
    while not actions.ps(docker, soon(), name).unhealthy:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert actions.ps(docker, soon(), name).unhealthy == [name]
    assert actions.inspect(docker, soon(), name).health == "unhealthy"


def test_a_container_is_looked_at_closely(docker: Docker, contain: Callable[..., Container]) -> None:
    container = contain("one", mem_limit="64m", nano_cpus=500_000_000)
    seen = actions.inspect(docker, soon(), container.name or "")
    assert (seen.state, seen.exit_code, seen.restarts, seen.oom_killed) == ("running", None, 0, False)
    assert (seen.memory_limit, seen.cpu_limit, seen.networks) == (64 * 2**20, 0.5, ["none"])
    assert seen.uptime_s is not None
    container.kill()
    container.wait()
    after = actions.inspect(docker, soon(), container.name or "")
    assert (after.state, after.exit_code, after.uptime_s) == ("exited", 137, None)
    with pytest.raises(NotApplicable, match="no container nosuch"):
        actions.inspect(docker, soon(), "nosuch")


def test_a_command_runs_inside_a_container(docker: Docker, contain: Callable[..., Container]) -> None:
    name = contain("one").name or ""
    done = actions.exec_(docker, soon(), name, ["sh", "-c", "echo $WORD; echo bad >&2"], env={"WORD": "good"})
    assert (done.exit_code, done.stdout, done.stderr) == (0, "good\n", "bad\n")
    assert actions.exec_(docker, soon(), name, ["false"], ok_codes=[0, 1]).exit_code == 1
    with pytest.raises(Refused, match=r"sh in .* ended with 3: no such table"):
        actions.exec_(docker, soon(), name, ["sh", "-c", "echo no such table; exit 3"])


def test_what_a_command_inside_a_container_printed_first_is_kept(
    docker: Docker, contain: Callable[..., Container]
) -> None:
    command = ["sh", "-c", "echo ERROR disk; yes ok | head -c 300000"]
    done = actions.exec_(docker, soon(), contain("one").name or "", command)
    assert done.stdout.startswith("ERROR disk")
    assert len(done.stdout) > 300_000
    assert done.plain()["truncated"]


def test_a_command_inside_a_container_ends_at_its_deadline(docker: Docker, contain: Callable[..., Container]) -> None:
    container = contain("one")
    began = time.monotonic()
    with pytest.raises(TimedOut, match="not done within 1s"):
        actions.exec_(docker, Deadline(1), container.name or "", ["sleep", "600"])
    assert time.monotonic() - began < 2
    end = time.monotonic() + 5
    while any("sleep 600" in " ".join(process) for process in container.top()["Processes"]):
        assert time.monotonic() < end, "the command lives on"
        time.sleep(0.05)


def test_a_container_cut_off_from_a_network_comes_back_under_its_old_names(
    docker: Docker, contain: Callable[..., Container], network: Network
) -> None:
    name = contain("one").name or ""
    with pytest.raises(Refused, match="is not on the network"):
        next(actions.disconnect(docker, soon(), name, network.name or ""))
    other = contain("two", network=network.name or "")
    with pytest.raises(NotApplicable, match="no network nosuch"):
        actions.connect(docker, soon(), other.name or "", "nosuch")
    [undo], cut = strike(actions.disconnect(docker, soon(), other.name or "", network.name or ""))
    assert cut.networks == []
    assert play(docker, undo).networks == [network.name]
    assert play(docker, undo).changed is False


def test_limits_are_narrowed_and_given_back(docker: Docker, contain: Callable[..., Container]) -> None:
    name = contain("one", mem_limit="128m", memswap_limit="128m", nano_cpus=1_000_000_000).name or ""
    [undo], narrow = strike(actions.limit(docker, soon(), name, memory=Size(64 * 2**20), cpus=0.5))
    assert (narrow.memory, narrow.cpus) == (64 * 2**20, 0.5)
    for _ in range(2):
        back = play(docker, undo)
        assert (back.memory, back.cpus) == (128 * 2**20, 1.0)
    with pytest.raises(Refused, match="nothing is limited"):
        next(actions.limit(docker, soon(), name))


def test_no_limit_of_memory_comes_back_as_all_that_the_machine_has_and_none_of_cores_as_none(
    docker: Docker, contain: Callable[..., Container], engine: DockerClient
) -> None:
    name = contain("one").name or ""
    [undo], _ = strike(actions.limit(docker, soon(), name, memory=Size(64 * 2**20), cpus=0.5))
    back = play(docker, undo)
    assert (back.memory, back.cpus) == (engine.info()["MemTotal"], 0)


def test_what_was_not_limited_is_left_alone_by_the_undo(docker: Docker, contain: Callable[..., Container]) -> None:
    container = contain("one", mem_limit="128m", memswap_limit="128m", cpu_period=50_000, cpu_quota=25_000)
    name = container.name or ""
    [undo], narrow = strike(actions.limit(docker, soon(), name, memory=Size(64 * 2**20)))
    assert (narrow.memory, narrow.cpus) == (64 * 2**20, 0.5)
    assert (play(docker, undo).memory, undo.args.get("cpus")) == (128 * 2**20, None)
    [undo], narrow = strike(actions.limit(docker, soon(), name, cpus=0.25))
    assert narrow.cpus == 0.25
    assert play(docker, undo).cpus == 0.5
    container.reload()
    limits = container.attrs["HostConfig"]
    assert [limits[key] for key in ("Memory", "MemorySwap", "CpuPeriod", "CpuQuota", "NanoCpus")] == [
        128 * 2**20,
        128 * 2**20,
        50_000,
        25_000,
        0,
    ]


def test_an_impossible_limit_is_refused_in_the_engines_words(docker: Docker, contain: Callable[..., Container]) -> None:
    fault = actions.limit(docker, soon(), contain("one").name or "", memory=Size(1000))
    next(fault)
    with pytest.raises(Refused, match="Minimum memory limit"):
        next(fault)


def test_an_engine_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    gone = Docker(url=f"unix://{tmp_path}/none.sock")
    for call in (actions.ps, lambda docker, deadline: actions.inspect(docker, deadline, "k2-api")):
        with pytest.raises(Unreachable, match="no Docker engine answers"):
            call(gone, soon())


def test_a_file_goes_into_a_container_and_comes_out_as_it_was(
    docker: Docker, contain: Callable[..., Container], tmp_path: Path
) -> None:
    name = contain("copied").name
    sent, back = tmp_path / "sent.bin", tmp_path / "deep" / "back.bin"
    sent.write_bytes(os.urandom(300_000))
    sent.chmod(0o750)
    into = actions.copy_to(docker, soon(), name, str(sent), "/bin/it.bin")
    listed = actions.exec_(docker, soon(), name, ["/bin/busybox", "ls", "-l", "/bin/it.bin"]).stdout
    assert listed.startswith("-rwxr-x---")
    outof = actions.copy_from(docker, soon(), name, "/bin/it.bin", str(back))
    assert back.read_bytes() == sent.read_bytes()
    assert (into.bytes, into.sha256) == (outof.bytes, outof.sha256) == (300_000, sha256(sent.read_bytes()).hexdigest())


def test_what_cannot_be_copied_is_told_and_leaves_nothing(
    docker: Docker, contain: Callable[..., Container], tmp_path: Path
) -> None:
    name = contain("uncopied").name
    with pytest.raises(NotApplicable, match="no /nowhere in"):
        actions.copy_from(docker, soon(), name, "/nowhere", str(tmp_path / "a"))
    with pytest.raises(Refused, match="not a regular file"):
        actions.copy_from(docker, soon(), name, "/bin", str(tmp_path / "a"))
    with pytest.raises(OperatorError, match="cannot be read"):
        actions.copy_to(docker, soon(), name, str(tmp_path / "missing"), "/bin/a")
    (tmp_path / "small").write_text("x")
    with pytest.raises(NotApplicable, match="no folder /nowhere in"):
        actions.copy_to(docker, soon(), name, str(tmp_path / "small"), "/nowhere/a")
    with pytest.raises(Refused, match="is a folder"):
        actions.copy_to(docker, soon(), name, str(tmp_path / "small"), "/bin/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]
