"""The tutorial, from an empty folder to a passed scenario: its commands are typed as they stand there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
WAY, _, AFTER = PAGE.partition("## 5.")
MOST = 15
"""Commands, files to save among them, from an empty folder to a passed scenario."""
INSTALLS = ("sh install.sh", ". .venv/bin/activate")
"""`.ci/bare` runs these as the README has them; here k2run is installed already."""
BLOCK = re.compile(r"(?:Save this as\s+`(?P<path>[^`]+)`[^\n]*\n\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)


class Typed(NamedTuple):
    """Something that a reader does: a command, or a file to save with its text."""

    command: str = ""
    path: str = ""
    text: str = ""


def way() -> Iterator[Typed]:
    """What a reader does, in order."""
    for block in BLOCK.finditer(WAY):
        if block["path"]:
            yield Typed(path=block["path"], text=block["text"])
        elif block["language"] == "sh":
            yield from (Typed(command) for command in re.split(r" && |\n", block["text"].strip()))
        else:
            yield from (Typed(line[2:]) for line in block["text"].splitlines() if line.startswith("$ "))


def test_a_passed_scenario_is_at_most_fifteen_commands_away_from_an_empty_folder() -> None:
    done = list(way())
    assert [one.command for one in done[:2]] == [*INSTALLS]
    assert [one.path for one in done if one.path] == ["runbooks/stacks/shop.yaml", "runbooks/web-crash.yaml"]
    assert done[-1].command.startswith("k2run run ")
    assert len(done) <= MOST, done


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


class Reader:
    """A reader who types what the page says, with a free port in the place of its own.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])

    def does(self, one: Typed, code: int = 0) -> str:
        """Save a file, change the folder, or type a command that ends with that code; what it prints."""
        if one.path:
            (self.folder / one.path).write_text(one.text.replace("8123", self.port), encoding="utf-8")
            return ""
        if one.command.startswith("cd "):
            self.folder /= one.command[3:]
            return ""
        done = subprocess.run(
            one.command,
            shell=True,
            cwd=self.folder,
            env={
                **os.environ,
                "K2RUN_HOME": str(self.home),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, f"{one.command}: {done.stdout}"
        return done.stdout


@pytest.mark.alone  # its runbook promises a latency
def test_its_commands_lead_to_a_passed_scenario(reader: Reader) -> None:
    said = [reader.does(one) for one in way() if one.command not in INSTALLS]
    assert "1 file checked, no problems" in said[-2]
    assert "PASSED" in said[-1]
    assert "p95 < 500ms" in said[-1]


def test_its_mistake_is_told_as_it_says(reader: Reader) -> None:
    [frame] = [block["text"] for block in BLOCK.finditer(WAY) if ": K302 " in block["text"]]
    (reader.folder / "runbooks" / "stacks").mkdir(parents=True)
    for one in way():
        if one.path:
            reader.does(one._replace(text=one.text.replace("iterations: 300", "iteration: 300")))
    assert frame.strip() in reader.does(Typed("k2run validate runbooks/web-crash.yaml"), code=2)


def test_the_commands_that_show_the_evidence_exist(reader: Reader) -> None:
    shown = re.findall(r"^\| `k2run (\w+)", AFTER, re.MULTILINE)
    assert len(shown) > 3
    for command in shown:
        assert "Usage: k2run" in reader.does(Typed(f"k2run {command} --help"))
