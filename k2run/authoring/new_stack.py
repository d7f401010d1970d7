"""Write a stack file for a stack of one's own: out of what is there already, or of a few answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.authoring.stack_draft import ServiceDraft, StackDraft, name_of
from k2run.errors import UsageError
from k2run.stack.model import RunBy

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[[str, str], str]
    """Asks a question with the answer that is taken when none is given."""

SCHEMA = "stack.schema.json"
STACKS = Path("runbooks") / "stacks"


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
    from k2run.authoring.new import refuse_to_overwrite, schema_from, title_of, valid_name

    valid_name(name)
    path = folder / f"{name}.yaml"
    refuse_to_overwrite(path)
    draft = StackDraft()
    if compose:
        from k2run.authoring.compose_services import read_compose

        draft = read_compose(Path(compose))
        draft.compose = Path(os.path.relpath(compose, folder)).as_posix()
    if prometheus:
        from k2run.authoring.scraped_services import add_targets, read_targets

        add_targets(draft, prometheus, read_targets(prometheus))
    if not compose and not prometheus:
        draft.services = _asked(ask) if ask else [_example()]
    text = draft.text(name=name, title=title_of(name), file=str(path), schema=schema_from(folder, SCHEMA))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def ask_in_terminal(question: str, default: str) -> str:
    """Ask an operator at the terminal; the default where nothing is answered."""
    from rich.prompt import Prompt

    return str(Prompt.ask(question, default=default or None) or "")


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
    import shlex

    run = _one_of(ask, "How is it run: process, docker or external", [*RunBy])
    service = ServiceDraft(name=name, run=RunBy(run))
    if service.run is RunBy.PROCESS:
        service.command = shlex.split(ask("Its command", f"python {name}.py"))
    if service.run is RunBy.DOCKER:
        service.container = ask("Name of its container", name)
    port = ask("The port it listens on (Enter when it has none)", "")
    if port.isdigit():
        service.ports = [int(port)]
        path = ask("The path that tells that it is well, such as /health (Enter when it speaks no HTTP)", "")
        service.ready = {"tcp": f"localhost:{port}"}
        if path:
            service.url = f"http://localhost:{port}"
            service.ready = {"http": f"http://localhost:{port}/{path.lstrip('/')}"}
    if before:
        needs = ask(f"What must run before it ({', '.join(before)}; Enter for nothing)", "")
        service.needs = [each for each in needs.replace(",", " ").split() if each in before]
    return service


def _one_of(ask: Ask, question: str, choices: list[RunBy]) -> str:
    while (answer := ask(question, RunBy.PROCESS.value)) not in list(choices):
        question = f"One of {', '.join(choices)}"
    return answer
