"""Check files without running them, and print the problems: as text, JSON or SARIF 2.1.0."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import k2run
from k2run.actions.catalogue import Catalogue
from k2run.app.launch import find_runbook
from k2run.errors import K2runError, RunbookInvalid, UsageError
from k2run.language.document import read_file
from k2run.language.loader import load_runbook
from k2run.language.model import Start
from k2run.language.references import stack_files
from k2run.stack.stack import load_stack
from k2run.terminal.safe_stream import complain, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.language.model import Runbook
    from k2run.language.problems import Explanation, Problem

Form = Literal["text", "json", "sarif"]


def check_files(paths: list[str], *, form: Form) -> list[Problem]:
    """Check runbooks and stack files, and show every problem."""
    catalogue = Catalogue()
    problems: list[Problem] = []
    files = [file for path in paths for file in files_below(Path(path))]
    for file in files:
        try:
            _check(file, catalogue)
        except RunbookInvalid as invalid:
            problems += invalid.problems
    show_problems(problems, len(files), form=form, noun="problem")
    return problems


def show_problems(problems: Sequence[Problem], files: int, *, form: Form, noun: str) -> None:
    """Print problems: as frames of code and a count, as a JSON list, or as SARIF."""
    if form != "text":
        say(_encoded(problems, form))
        return
    if problems:
        from k2run.language.problems import render

        complain(render(problems), "")
    count = len(problems)
    say(f"{files} file{'s' * (files != 1)} checked, {count or 'no'} {noun}{'s' * (count != 1)}")


def files_below(path: Path) -> Iterator[Path]:
    """A file itself, every YAML file below a folder, or the file of a runbook or stack by its name.

    Raises:
        UsageError: The file or folder does not exist.
    """
    if path.is_dir():
        yield from sorted(file for ending in ("*.yaml", "*.yml") for file in path.rglob(ending))
    elif path.exists():
        yield path
    else:
        yield _named(str(path))


def _named(name: str) -> Path:
    """The runbook of that name, as `run` takes it, or the stack.

    Raises:
        UsageError: There is none; the nearest is named.
    """
    try:
        return find_runbook(name)
    except UsageError as error:
        stacks = stack_files(None)
        if name in stacks:
            return stacks[name]
        if not error.message.startswith("there is no"):
            raise
        raise UsageError(f"there is no file {name}, and no runbook or stack of that name", hint=error.hint) from None


def is_stack(file: Path) -> bool:
    """Whether a file is a stack file: those live in a folder `stacks`, or begin with `stack: 1`."""
    if file.parent.name == "stacks":
        return True
    try:
        data = read_file(file).data
    except K2runError:
        return False  # its reading as a runbook says what is wrong
    return isinstance(data, dict) and "stack" in data and not {"runbook", "kind", "sections"} & data.keys()


def _check(file: Path, catalogue: Catalogue) -> None:
    if is_stack(file):
        stack = load_stack(str(file), near=file.parent, home=Path(".k2run"), overrides={})
        problems = stack.check(catalogue.connections(), catalogue.faults())
        if problems:
            raise RunbookInvalid(problems)
        if stack.data_path is not None:
            load_runbook(stack.data_path, catalogue)
    elif starts_unseen(load_runbook(file, catalogue)):
        complain(
            f"warning: {file}: `start: automatic` without `symptoms` asks for approval (`k2run lint` has more)", ""
        )


def starts_unseen(runbook: Runbook) -> list[int]:
    """Which of its alerts are to start it automatically, although no symptom can confirm what they say."""
    if runbook.symptoms:
        return []
    return [index for index, rule in enumerate(runbook.alerts) if rule.start is Start.AUTOMATIC]


def _encoded(problems: Sequence[Problem], form: Form) -> str:
    import msgspec

    if form == "json":
        return msgspec.json.encode(problems).decode()
    return msgspec.json.format(msgspec.json.encode(sarif(problems))).decode()


SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_DANGER = "L1"


def sarif(problems: Sequence[Problem]) -> dict[str, Any]:
    """One SARIF log with one run: the rules that were broken, and where."""
    codes = sorted({problem.code for problem in problems})
    from k2run.authoring.action_manual import every_explanation

    known = every_explanation()
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "k2run",
                        "version": k2run.__version__,
                        "rules": [_rule(code, known.get(code)) for code in codes],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(problem, codes.index(problem.code)) for problem in problems],
            }
        ],
    }


def level(code: str) -> str:
    """The severity of a code: invalid is an error, dangerous a warning, style a note."""
    if not code.startswith("L"):
        return "error"
    return "warning" if code.startswith(_DANGER) else "note"


def _rule(code: str, explanation: Explanation | None) -> dict[str, Any]:
    from k2run.authoring.action_manual import examples_of

    rule: dict[str, Any] = {"id": code, "defaultConfiguration": {"level": level(code)}}
    if explanation is None:
        return rule
    parts = [explanation.why, *(f"{word}:\n{text}" for word, text in examples_of(explanation))]
    text = "\n\n".join(part for part in parts if part)
    return {**rule, "shortDescription": {"text": explanation.title}, "help": {"text": text or explanation.title}}


def _result(problem: Problem, rule: int) -> dict[str, Any]:
    remarks = [problem.message, *(f"{word}: {text}" for word, text in _remarks(problem))]
    region = {
        "startLine": problem.place.line,
        "startColumn": problem.place.column,
        "endColumn": problem.place.column + problem.length,
    }
    location = {"artifactLocation": {"uri": _uri(problem.place.file)}, "region": region}
    return {
        "ruleId": problem.code,
        "ruleIndex": rule,
        "level": level(problem.code),
        "message": {"text": "; ".join(remarks)},
        "locations": [{"physicalLocation": location}],
    }


def _remarks(problem: Problem) -> list[tuple[str, str]]:
    said = (("expected", problem.expected), ("found", problem.found), ("hint", problem.hint))
    return [(word, text) for word, text in said if text]


def _uri(file: str) -> str:
    """Relative to the working directory where it is below it, as CI systems want it."""
    from urllib.parse import quote

    path = Path(file)
    if path.is_absolute():
        here = Path.cwd()
        return quote(str(path.relative_to(here))) if path.is_relative_to(here) else path.as_uri()
    return quote(path.as_posix())
