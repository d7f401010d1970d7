"""The shells themselves complete with the scripts that are written for them."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from k2run.authoring.completion import SHELLS, commands_of, completion_of
from k2run.cli.program import TASKS
from k2run.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

ASKED = [
    ("k2run va", "validate"),
    ("k2run run dem", "demo-night"),
    ("invoke run lag", "lag-high"),
    ("k2run run demo-night --un", "--unattended"),
    ("k2run run demo-night --stack san", "sandpit"),
    ("k2run resume 2026", "20261121-1"),
    ("k2run doc kafka.la", "kafka.lag"),
    ("k2run explain L10", "L101"),
    ("k2run new scen", "scenario"),
    ("k2run lint runb", "runbooks"),
]

BASH = """\
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_k2run; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    for name in ("runbooks/demo-night.yaml", "runbooks/scenarios/lag-high.yaml", "runbooks/stacks/sandpit.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / ".k2run/runs/20261121-1").mkdir(parents=True)
    for shell in SHELLS:
        (folder / f"completion.{shell}").write_text(completion_of(shell, TASKS))
    return folder


def ask(home: Path, shell: str, program: str) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-c", program], cwd=home, capture_output=True, text=True, timeout=20, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(("line", "expected"), ASKED)
def test_bash_completes(line: str, expected: str, home: Path) -> None:
    said = ask(home, "bash", BASH.format(script="completion.bash", words=line))
    assert expected in said.split("\n")


@pytest.mark.parametrize(("line", "expected"), ASKED)
def test_fish_completes(line: str, expected: str, home: Path) -> None:
    said = ask(home, "fish", f"source completion.fish; complete -C '{line}'")
    assert expected in [row.split("\t")[0].rstrip("/") for row in said.split("\n")]


def test_zsh_completes_a_runbook_as_one_types(home: Path) -> None:
    shell = shutil.which("zsh")
    if shell is None:
        pytest.skip("zsh is not installed")
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "dumb", "PS1": "", "ZDOTDIR": str(home)}
    with subprocess.Popen(
        [shell, "-f", "-i"], cwd=home, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        try:
            os.write(ours, b"autoload -Uz compinit && compinit -D && source completion.zsh && echo re''ady\n")
            said_until(ours, "ready")
            os.write(ours, b"k2run run demo-\t")
            assert "night " in said_until(ours, "night ")  # what was missing, and a blank: it was the only one
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


def said_until(terminal: int, wanted: str) -> str:
    """What a terminal shows until it shows what is wanted, or ten seconds are over."""
    said, end = "", time.monotonic() + 10
    while wanted not in said and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 4096).decode(errors="replace")
    return said


def test_fish_offers_no_runbook_where_a_stack_is_wanted(home: Path) -> None:
    said = ask(home, "fish", "source completion.fish; complete -C 'k2run run demo-night --stack '")
    assert "sandpit" in said
    assert "lag-high" not in said


def test_every_command_and_option_is_in_every_script() -> None:
    commands = commands_of(TASKS)
    assert {"run", "list", "import", "lint"} <= {command.name for command in commands}
    for shell in SHELLS:
        script = completion_of(shell, TASKS)
        for command in commands:
            assert command.name in script
            names = [option.lstrip("-") for option, _ in command.options]
            assert all(name in script for name in names)


def test_an_unknown_shell_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        completion_of("tcsh", TASKS)
    assert "bash, zsh, fish" in caught.value.hint
