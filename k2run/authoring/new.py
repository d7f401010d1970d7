"""Write commented starting points: runbooks, each valid and without a finding of lint, and stack files."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from k2run.app.launch import DEFAULT_STACK
from k2run.authoring.stack_draft import ServiceDraft, StackDraft, add_targets, name_of, read_compose, read_targets
from k2run.errors import RunbookInvalid, UsageError
from k2run.language.document import read_file
from k2run.language.model import Kind
from k2run.language.references import stack_files
from k2run.stack.model import OUTSIDE, RunBy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k2run.language.document import Document

    Ask = Callable[[str, str], str]
    """Asks a question with the answer that is taken when none is given."""


STARTS = Path(__file__).with_name("starts")
_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_PACKAGE = Path(__file__).parents[1]
SCHEMA = "runbook.schema.json"
STACK_SCHEMA = "stack.schema.json"
RUNBOOKS = Path("runbooks")
RECOVERIES = RUNBOOKS / "recovery"
"""Where `diagnose` looks for what it can recognise."""
STACKS = RUNBOOKS / "stacks"


def write_new(kind: str, name: str, *, folder: Path | None = None, stack: str = "") -> Path:
    """Write a new runbook and return its path.

    Args:
        kind: What it is for: one of the kinds of runbooks.
        name: Its name, in small letters and dashes; also that of its file.
        folder: Where to put it; made when it is not there. By default where its kind is looked for.
        stack: The stack whose services it is about; the embedded platform when empty.

    Raises:
        UsageError: The kind is unknown, the name is not valid, or the file exists.
        StackInvalid: There is no such stack.
        RunbookInvalid: The stack file has problems.
    """
    if kind not in set(Kind):
        from k2run.language.problems import did_you_mean

        kinds = [*Kind, "stack"]
        hint = did_you_mean(kind, kinds) or f"one of {', '.join(kinds)}"
        raise UsageError(f"unknown kind of runbook {kind!r}", hint=hint)
    valid_name(name)
    if folder is None:
        folder = RECOVERIES if kind == Kind.RECOVERY else RUNBOOKS
    path = folder / f"{name}.yaml"
    refuse_to_overwrite(path)
    text = starting_text(kind, name, path, stack)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_new_stack(
    name: str, *, folder: Path, compose: str = "", prometheus: str = "", ask: Ask | None = None
) -> Path:
    """Write a new stack file and return its path.

    Args:
        name: Of the stack, and of its file.
        folder: Where to put it; made when it is not there.
        compose: Path of a Compose file with its services.
        prometheus: Base URL of a Prometheus that scrapes them.
        ask: Asks for services where neither is given; None where no one can be asked.

    Raises:
        UsageError: The name is not valid, the file exists, or a source cannot be read.
    """
    valid_name(name)
    path = folder / f"{name}.yaml"
    refuse_to_overwrite(path)
    draft = StackDraft()
    if compose:
        draft = read_compose(Path(compose))
        draft.compose = Path(os.path.relpath(compose, folder)).as_posix()
    if prometheus:
        add_targets(draft, prometheus, read_targets(prometheus))
    if not compose and not prometheus:
        draft.services = _asked(ask) if ask else [_example()]
    text = draft.text(name=name, title=title_of(name), file=str(path), schema=schema_from(folder, STACK_SCHEMA))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def ask_in_terminal(question: str, default: str) -> str:
    """Ask an operator at the terminal; the default where nothing is answered."""
    from rich.prompt import Prompt

    return str(Prompt.ask(question, default=default or None) or "")


def refuse_to_overwrite(path: Path) -> None:
    """Refuse the path of an existing file.

    Raises:
        UsageError: One is there.
    """
    if path.exists():
        raise UsageError(f"{path} already exists", hint="choose another name, or remove the file")


def valid_name(name: str) -> None:
    """Refuse a name other than lower-case letters, digits and dashes.

    Raises:
        UsageError: It is none.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a valid name", hint="use lower-case letters, digits and dashes: consumer-lag-high"
        )


def title_of(name: str) -> str:
    """A name as a title: `consumer-lag-high` is `Consumer lag high`."""
    return re.sub("[-_]", " ", name).capitalize()


def starting_text(kind: str, name: str, path: Path, stack: str = "") -> str:
    """The text of a new runbook; its comments name the path, and the editor's schema is given from there."""
    words = {
        "name": name,
        "title": title_of(name),
        "owner": os.environ.get("USER") or "no owner yet",
        "file": str(path),
        "schema": schema_from(path.parent),
    }
    return text_for_stack(kind, words, stack or DEFAULT_STACK, path.parent)


def schema_from(folder: Path, schema: str = SCHEMA) -> str:
    """The path of a schema as editors find it from a folder; relative where it is in the same repository."""
    here = Path("schemas") / schema
    if here.is_file() and folder.resolve().is_relative_to(Path.cwd()):
        return Path(os.path.relpath(here, folder)).as_posix()
    shipped = (_PACKAGE / "_schemas" / schema, _PACKAGE.parent / "schemas" / schema)
    return next((file.as_uri() for file in shipped if file.is_file()), schema)


class Known(NamedTuple):
    """What a starting point has to know of a service.

    Attributes:
        fault: What k2run can do to it and undo: `kill` what it runs itself, `stop` what has commands; else empty.
        has_log: Whether k2run can read its log.
        is_needed: Whether another one needs it.
        needs: How many others it needs.
        path: The path that its `ready` probe asks, where it is asked for over HTTP; else empty.
    """

    name: str
    fault: str
    has_log: bool
    is_needed: bool
    needs: int
    path: str


def text_for_stack(kind: str, words: dict[str, str], reference: str, folder: Path) -> str:
    """The text of a new runbook for a stack; `words` are those of its head: name, title, owner, file, schema.

    Raises:
        StackInvalid: There is no such stack.
        RunbookInvalid: Its file has problems.
        UsageError: The stack has nothing for such a runbook, or the runbook would not find it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from k2run.stack.stack import find_stack

    path = find_stack(reference, None)
    document = _valid(path)
    name, services = str(document.data.get("name", path.stem)), _known(document)
    if stack_files(folder).get(name, Path()).resolve() != path.resolve():
        raise UsageError(f"a runbook in {folder} does not find {path}", hint="keep stack files in runbooks/stacks/")
    roles = document.data.get("roles") or {}
    values: dict[str, Any] = {**words, "stack": name, "services": services, "roles": roles}
    if kind in {Kind.SCENARIO, Kind.RECOVERY}:
        values["target"] = _target(services, name)
        values["others"] = [service for service in services if service != values["target"]]
    if kind == Kind.BENCHMARK:
        reports = str((roles.get("health") or {}).get("service", ""))
        web = sorted((service for service in services if service.path), key=lambda service: service.name != reports)
        values["web"] = web[0] if web else None
        if values["web"] is None:
            raise UsageError(f"no service of {name} is asked over HTTP", hint="give one a `ready: {http: …}`")
    loader = FileSystemLoader(STARTS)
    place = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - YAML, not HTML
    return place.get_template(f"{kind}.yaml.j2").render(values)


def _valid(path: Path) -> Document:
    from k2run.stack.validation import problems_of

    document = read_file(path)
    problems = problems_of(document)
    if problems:
        raise RunbookInvalid(problems)
    if not document.data.get("services"):
        raise UsageError(f"{path} has no services", hint="a runbook checks the services of its stack")
    return document


def _known(document: Document) -> list[Known]:
    forms: dict[str, dict[str, Any]] = document.data.get("services") or {}
    needed = {each for form in forms.values() for each in form.get("needs") or []}
    return [
        Known(
            name,
            _fault(form),
            form.get("run", RunBy.EXTERNAL) not in OUTSIDE or bool(form.get("logs")),
            name in needed,
            len(form.get("needs") or []),
            urlsplit(str((form.get("ready") or {}).get("http", ""))).path,
        )
        for name, form in forms.items()
    ]


def _fault(form: Mapping[str, Any]) -> str:
    if form.get("run", RunBy.EXTERNAL) not in OUTSIDE:
        return "kill"
    return "stop" if form.get("start") and form.get("stop") else ""


def _target(services: list[Known], stack: str) -> Known:
    """What such a runbook breaks or repairs: a service that k2run can stop, at the end of what needs each other."""
    mortal = sorted(
        (service for service in services if service.fault),
        key=lambda service: (service.is_needed, -service.needs),
    )
    if not mortal:
        hint = "`run: process`, `run: docker`, or the commands `start:` and `stop:` say how one is started and stopped"
        raise UsageError(f"k2run can stop and start no service of {stack}", hint=hint)
    return mortal[0]


def _example() -> ServiceDraft:
    return ServiceDraft(
        name="web",
        run=RunBy.PROCESS,
        note="an example: write what your service is",
        command=["python", "-m", "http.server", "8123", "--bind", "127.0.0.1"],
        ports=[8123],
        url="http://127.0.0.1:8123",
        ready={"http": "http://127.0.0.1:8123/", "within": "30s"},
    )


def _asked(ask: Ask) -> list[ServiceDraft]:
    """Services as an operator names them, one after the other."""
    services: list[ServiceDraft] = []
    while name := ask("Name of a service" if not services else "Name of another service (Enter to end)", ""):
        services.append(_asked_one(ask, name_of(name), [service.name for service in services]))
    if not services:
        raise UsageError(
            "a stack needs a service", hint="give --compose FILE or --prometheus URL to take what is there"
        )
    return services


def _asked_one(ask: Ask, name: str, before: list[str]) -> ServiceDraft:
    run = _one_of(ask, "How is it run: process, docker or external", [RunBy.PROCESS, RunBy.DOCKER, RunBy.EXTERNAL])
    service = ServiceDraft(name=name, run=RunBy(run))
    if service.run is RunBy.PROCESS:
        service.command = shlex.split(ask("Its command", f"python {name}.py"))
    if service.run is RunBy.DOCKER:
        service.container = ask("Name of its container", name)
    port = ask("The port it listens on (Enter for none)", "")
    if port.isdigit():
        service.ports = [int(port)]
        path = ask("Its health path, such as /health (Enter when it has no HTTP)", "")
        service.ready = {"tcp": f"localhost:{port}"}
        if path:
            service.url = f"http://localhost:{port}"
            service.ready = {"http": f"http://localhost:{port}/{path.lstrip('/')}"}
    if before:
        needs = ask(f"What it needs to be running first ({', '.join(before)}; Enter for nothing)", "")
        service.needs = [each for each in needs.replace(",", " ").split() if each in before]
    return service


def _one_of(ask: Ask, question: str, choices: list[RunBy]) -> str:
    while (answer := ask(question, RunBy.PROCESS.value)) not in list(choices):
        question = f"One of {', '.join(choices)}"
    return answer
