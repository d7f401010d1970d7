"""Whoever reads the output may have had enough: a command ends quietly, and with its own exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

K2RUN = str(Path(sys.executable).parent / "k2run")
MANY = 800
"""Problems: more text than a pipe holds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a runbook full of mistakes."""
    made = tmp_path_factory.mktemp("many")
    head = "runbook: 1\nkind: readiness\nname: many\ntitle: Many\nsections:\n  - name: A\n    steps:\n"
    (made / "many.yaml").write_text(head + "".join(f"      - no.such{number}: {{}}\n" for number in range(MANY)))
    return made


@pytest.mark.parametrize(
    "line",
    [
        "{k2run} validate many.yaml 2>&1 | head -1",
        "{k2run} validate many.yaml --json | head -c 99",
        "{k2run} validate many.yaml --sarif | head -1",
        "{k2run} validate many.yaml 2> >(head -1 >&2) | head -1",
        "{k2run} validate many.yaml 2>&1 >/dev/null | head -1",
        "{k2run} lint many.yaml 2>&1 | head -1",
    ],
)
def test_a_check_whose_reader_has_enough_ends_quietly(folder: Path, line: str) -> None:
    command = f"set -o pipefail; {line.format(k2run=K2RUN)}; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "K2RUN_HOME": str(folder / "home")}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    told = (done.stdout + done.stderr).splitlines()
    assert not [each for each in told if "Traceback" in each or "BrokenPipe" in each or "Exception" in each]
    assert len(told) <= 2


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")], ids=" and ".join)
@pytest.mark.parametrize("words", [["validate", "many.yaml"], ["status", "--stack=none.yaml"]])
def test_a_command_whose_reader_is_gone_before_it_begins_ends_as_it_would(
    folder: Path, words: list[str], closed: tuple[str, ...]
) -> None:
    (folder / "none.yaml").write_text("stack: 1\nname: none\n")
    environment = {**os.environ, "K2RUN_HOME": str(folder / "home")}
    usual = subprocess.run([K2RUN, *words], cwd=folder, env=environment, capture_output=True, check=False)
    process = subprocess.Popen(
        [K2RUN, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for name in closed:
        getattr(process, name).close()
    told = "".join(getattr(process, name).read() for name in ("stdout", "stderr") if name not in closed)
    assert process.wait(60) == usual.returncode
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
