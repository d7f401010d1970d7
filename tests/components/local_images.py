"""Images for the compose project where no registry answers, built once in an image store that is kept between runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from java_programs import KAFKA, KEPT, class_path

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
STORE = KEPT / "images"
"""The data folder of the engines; some 3 GB."""
BASE, REQUIREMENTS = "k2run-test/base", "k2run-test/requirements"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,openjdk-17-jre-headless,prometheus,busybox-static,iproute2"
RELEASE = "bookworm"
NEEDED = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "java": "default-jre-headless",
    "mvn": "maven",
}
ENGINE_START_S = 60.0
BUILD_S = 1500.0
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def need_all() -> None:
    """Skip the test where something is missing that cannot be replaced, and say what."""
    missing = [f"{program} (Debian: {package})" for program, package in NEEDED.items() if shutil.which(program) is None]
    if missing:
        pytest.skip(f"images cannot be built here without {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker engine with networks of its own")


@contextlib.contextmanager
def engine(prefix: tuple[str, ...], *options: str) -> Iterator[str]:
    """A Docker engine on the kept image store; gives its address.

    Args:
        prefix: Words before the command, such as those that enter a network namespace.
        options: Further options of dockerd.
    """
    STORE.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held, (KEPT / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # an image store has one engine at a time
        yield held.enter_context(_engine(prefix, options))


@contextlib.contextmanager
def _engine(prefix: tuple[str, ...], options: tuple[str, ...]) -> Iterator[str]:
    # Not below pytest's folder: the path of a socket may have no more than 107 characters.
    with tempfile.TemporaryDirectory(prefix="k2run-engine-", ignore_cleanup_errors=True) as folder:
        host, log = f"unix://{folder}/docker.sock", Path(folder, "log")
        command = ["dockerd", "--data-root", str(STORE), "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
        command += ["--host", host, "--bridge=none", *options]
        with log.open("wb") as output:
            running = subprocess.Popen([*prefix, *command], stdout=output, stderr=output, start_new_session=True)
        try:
            end = time.monotonic() + ENGINE_START_S
            while docker(host, "version", check=False).returncode:
                if running.poll() is not None or time.monotonic() > end:
                    pytest.skip(f"dockerd cannot run here: {log.read_text(errors='replace').splitlines()[-1:]}")
                time.sleep(0.2)
            yield host
        finally:
            running.terminate()
            running.wait(60)
            subprocess.run(["umount", f"{folder}/exec/netns/default"], check=False, capture_output=True)


def docker(host: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Call the client; its classic builder needs no plugin."""
    environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"}
    return subprocess.run(
        ["docker", *words], env=environment, check=check, capture_output=True, text=True, timeout=BUILD_S
    )


def build_missing() -> None:
    """Build what the store has not: a base with Python, Java and Prometheus, Kafka on it, what k2run requires on it.

    This engine touches no network of the machine; only its builds use it.
    """
    with engine((), "--iptables=false", "--ip-forward=false") as host:
        try:
            if docker(host, "image", "inspect", BASE, check=False).returncode:
                _build_base(host)
            for name in ("kafka", "prometheus"):
                _build_platform(host, name)
            words = ["--network", "host", "--build-arg", f"BASE={BASE}", "--target", "requirements"]
            docker(host, "build", *words, "--tag", REQUIREMENTS, str(ROOT))
            docker(host, "image", "prune", "--force")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"an image cannot be built here: {error.cmd[1]}: {(error.stderr or error.stdout)[-300:]}")


def _build_base(host: str) -> None:
    with tempfile.TemporaryDirectory(dir=KEPT) as folder:
        root = Path(folder, "root")
        _call("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root))
        (root / "usr/bin/python").symlink_to("python3")
        changes = []
        if CERTIFICATES.is_file():  # this machine may trust more than Debian does
            shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
            changes = [f"--change=ENV PIP_CERT={CERTIFICATES}"]
        archive = Path(folder, "base.tar")
        _call("tar", "--exclude=./var/cache/apt/archives/*.deb", "-C", str(root), "-cf", str(archive), ".")
        docker(host, "import", *changes, str(archive), BASE)


def _build_platform(host: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        context = shutil.copytree(ROOT / "tests" / "compose" / "images" / name, Path(folder, name))
        if name == "kafka":
            (context / "libs").mkdir()
            for jar in class_path("kafka", KAFKA).split(":"):
                shutil.copy2(jar, context / "libs")
        docker(host, "build", "--build-arg", f"BASE={BASE}", "--tag", f"k2run-test/{name}", str(context))


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_S)
