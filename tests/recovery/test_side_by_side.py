"""Sandboxes on one machine leave each other alone; one that cannot be started says why and leaves nothing running."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from outside_faults import SERVICES, Sandbox, sandbox_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("outside")]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Sandbox]]:
    """Sandboxes of a test, which are stopped at its end."""
    found: list[Sandbox] = []
    yield found
    for sandbox in found:
        sandbox.down()


def pids(sandbox: Sandbox) -> dict[str, int]:
    return {service: sandbox.pid(service) for service in SERVICES if sandbox.noted(service).exists()}


def test_two_in_two_folders_are_ready_at_once_and_one_that_is_stopped_leaves_the_other(
    tmp_path: Path, started: list[Sandbox]
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        started.append(Sandbox(tmp_path / name))  # the second sees which ports the first has taken
        started[-1].up()
    one, other = started
    before = pids(one)
    assert len(before) >= len(SERVICES) - 1, "Prometheus may not be installed"
    assert not set(before.values()) & set(pids(other).values())
    for sandbox in started:
        code, said = sandbox.k2run("status")
        assert code == 0, said
    code, said = other.k2run("down")
    assert code == 0, said
    assert other.processes() == []
    code, said = one.k2run("status")
    assert code == 0, said
    assert pids(one) == before


@pytest.mark.parametrize("service", ["consumer", "iceberg-rest", "api"])
def test_a_wrong_key_of_the_object_store_is_told_by_up(tmp_path: Path, started: list[Sandbox], service: str) -> None:
    sandbox = Sandbox(tmp_path)
    started.append(sandbox)
    before, own, after = sandbox_stack().read_text().partition(f"\n  {service}:\n    title:")
    text = before + own + after.replace('AWS_ACCESS_KEY_ID: "{{ store_key }}"', "AWS_ACCESS_KEY_ID: stolen", 1)
    stack = tmp_path / "sandbox.yaml"
    stack.write_text(text.replace("../data-path.yaml", str(sandbox_stack().parents[1] / "data-path.yaml")))
    code, said = sandbox.k2run("up", "--stack", str(stack))
    assert code == 5, said
    assert "the object store refuses the credentials" in said
    assert "k2run logs" in said, "what next"
    assert sandbox.processes() == []


def test_a_state_folder_on_a_full_disk_is_told_by_up(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root mounts a disk")
    sandbox = Sandbox(tmp_path)
    sandbox.home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(sandbox.home)], check=True)
    try:
        code, said = sandbox.k2run("up")
        assert code == 5, said
        assert "No space left on device" in said
        assert sandbox.processes() == []
    finally:
        sandbox.k2run("down")
        subprocess.run(["umount", "-l", str(sandbox.home)], check=False)
