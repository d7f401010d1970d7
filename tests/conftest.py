"""Real components that several test folders share; each is started once and stopped at the end."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ENGINE_START_S = 30.0
COSTLY = (
    "platform",
    "faulty",
    "docker_host",
    "postgres_server",
    "weed",
    "minio",
    "rest_catalog",
    "broker",
    "served",
    "browser",
    "as_is_platform",
    "their_platform",
)
"""Fixtures of a session that take seconds to start, or go on working while they wait."""


ALONE = "K2RUN_TESTS_ALONE"
"""Folder of the locks by which tests marked `alone` have the machine to themselves, in all processes of xdist."""


def pytest_configure(config: pytest.Config) -> None:
    """Hear signals that were to be ignored, and do nothing: programs that tests start would inherit "ignored".

    So it is under nohup, and for SIGINT and SIGQUIT after the `&` of a script. A handler is reset to the default when a
    program is started; an ignored signal stays ignored.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    if not hasattr(config, "workerinput"):  # the processes of xdist inherit it
        os.environ[ALONE] = tempfile.mkdtemp(prefix="k2run-tests-")
        os.environ.setdefault("K2RUN_NOTIFY_GIVE_UP", "30s")  # no messenger outlives the tests by much
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(ALONE), ignore_errors=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="1/1", metavar="N/M", help="every M-th test, from the N-th on")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Give tests that share something costly to one worker of xdist, where it is started once; keep the part wanted."""
    for item in items:
        shared = next((name for name in COSTLY if name in getattr(item, "fixturenames", ())), None)
        shared = shared or ("alone" if is_alone(item) else None)  # they wait for the machine once, not each for itself
        if shared and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(shared))
    yield
    first, every = map(int, config.getoption("--part").split("/"))
    wanted = items[first - 1 :: every]
    if len(wanted) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = wanted


class Machine:
    """The machine as the tests share it: one that wants it alone waits for the others once, and holds them up."""

    def __init__(self) -> None:
        self._held: IO[str] | None = None

    def take(self, *, alone: bool) -> None:
        """Wait for a share of the machine, or for all of it; what is held is kept."""
        if self._held is not None:
            return
        folder = Path(os.environ[ALONE])
        self._held = (folder / "machine").open("w")
        with (folder / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)  # first come, first served: a test that wants to be alone is not starved
            fcntl.flock(self._held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(gate, fcntl.LOCK_UN)

    def give_back(self) -> None:
        """Let the others go on."""
        if self._held is not None:
            # Said, not left to the close: a fork of this process has it open, too.
            fcntl.flock(self._held, fcntl.LOCK_UN)
            self._held.close()
            self._held = None


MACHINE = Machine()


def is_alone(item: pytest.Item | None) -> bool:
    """Whether a test measures time."""
    return item is not None and item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Let tests marked `alone` measure without rivals, one after the other."""
    MACHINE.take(alone=is_alone(item))
    try:
        return (yield)
    finally:
        if not (is_alone(item) and is_alone(nextitem)):
            MACHINE.give_back()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """In processes of xdist, end what is costly after its last test: a stack that idles takes a third of a core."""
    yield
    if not hasattr(item.config, "workerinput"):
        return  # whoever runs them in the order of the files meets it again
    request = getattr(item, "_request", None)
    for name, made in list(getattr(request, "_fixture_defs", {}).items()):
        if name in COSTLY and name not in getattr(nextitem, "fixturenames", ()):
            made.finish(request)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Keep the tracer of the coverage out of tests marked `no_cover`; pytest-cov does not, in processes of xdist."""
    tracer = sys.gettrace()
    if item.get_closest_marker("no_cover"):
        sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


@pytest.fixture(scope="session")
def docker_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Docker engine: the one that answers already, else one of our own where that can be started."""
    present = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if _answers(present):
        yield present
        return
    if shutil.which("dockerd") is None:
        pytest.skip("no Docker engine answers, and dockerd is not installed")
    if os.geteuid() != 0:
        pytest.skip("no Docker engine answers, and only root can start one")
    # Not below pytest's own folder: the path of a socket may have no more than 107 characters.
    folder = Path(f"/tmp/k2run-docker-{os.getpid()}")
    folder.mkdir()
    log = tmp_path_factory.mktemp("docker") / "dockerd.log"
    host = f"unix://{folder}/docker.sock"
    command = [
        "dockerd",
        "--data-root",
        f"{folder}/data",
        "--exec-root",
        f"{folder}/exec",
        "--pidfile",
        f"{folder}/pid",
    ]
    command += ["--host", host, "--bridge=none", "--iptables=false", "--ip-forward=false"]
    with log.open("wb") as output:
        engine = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + ENGINE_START_S
        while not _answers(host):
            if engine.poll() is not None or time.monotonic() > end:
                pytest.skip(f"dockerd cannot run here: {log.read_text(errors='replace').strip().splitlines()[-1:]}")
            time.sleep(0.1)
        yield host
    finally:
        engine.terminate()
        engine.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so there is no certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=tested"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True, capture_output=True
    )
    both = folder / "both.pem"
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return both


@pytest.fixture(scope="session")
def docker_image(docker_host: str) -> str:
    """The name of an image with a shell in it, made here: there is no registry."""
    import docker

    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed, and the test image is made of it")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for name in ("sh", "sleep", "echo", "true", "false", "cat", "date", "yes", "test", "touch", "rm", "nc", "dd"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    name = "k2run-test:latest"
    with contextlib.closing(docker.DockerClient(base_url=docker_host)) as client:
        client.api.import_image_from_data(archive.getvalue(), repository="k2run-test", tag="latest")
        try:
            client.containers.run(name, ["true"], network_mode="none", remove=True)
        except docker.errors.DockerException as error:
            pytest.skip(f"the engine cannot run a container made of busybox (is it a static one?): {error}")
    return name


def _answers(host: str) -> bool:
    import docker

    try:
        with contextlib.closing(docker.DockerClient(base_url=host, timeout=2)) as client:
            return bool(client.ping())
    except docker.errors.DockerException:
        return False
