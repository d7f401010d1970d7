"""Starting points for runbooks of one's own stack, with its services in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from k2run.errors import RunbookInvalid, UsageError
from k2run.language.document import read_file
from k2run.language.model import Kind
from k2run.language.references import stack_files
from k2run.stack.model import RunBy
from k2run.stack.stack import find_stack
from k2run.stack.validation import problems_of

STARTS = Path(__file__).with_name("starts") / "own_stack"


class Known(NamedTuple):
    """What a starting point has to know of a service.

    Attributes:
        name: Its name.
        can_break: Whether k2run can stop and start it.
        is_needed: Whether another one needs it.
        path: The path that its `ready` probe asks, where it is asked for over HTTP; else empty.
    """

    name: str
    can_break: bool
    is_needed: bool
    path: str


def text_for_stack(kind: str, words: dict[str, str], reference: str, folder: Path) -> str:
    """The text of a new runbook for a stack.

    Args:
        kind: The kind of runbook.
        words: What stands in its head: name, title, owner, file, schema.
        reference: The stack, by name or path.
        folder: Where the runbook will stand.

    Raises:
        StackInvalid: There is no such stack.
        RunbookInvalid: Its file has problems.
        UsageError: The stack has nothing for such a runbook, or the runbook would not find it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    path = find_stack(reference, None)
    name, services = _known(path)
    if stack_files(folder).get(name, Path()).resolve() != path.resolve():
        raise UsageError(f"a runbook in {folder} does not find {path}", hint="keep stack files in runbooks/stacks/")
    values: dict[str, Any] = {**words, "stack": name, "services": services}
    if kind in {Kind.SCENARIO, Kind.RECOVERY}:
        values["target"] = _target(services, name)
        values["others"] = [service for service in services if service != values["target"]]
    if kind == Kind.BENCHMARK:
        values["web"] = next((service for service in services if service.path), None)
        if values["web"] is None:
            raise UsageError(f"no service of {name} is asked over HTTP", hint="give one a `ready: {http: …}`")
    place = Environment(loader=FileSystemLoader(STARTS), undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - YAML, not HTML
    return place.get_template(f"{kind}.yaml.j2").render(values)


def _known(path: Path) -> tuple[str, list[Known]]:
    document = read_file(path)
    problems = problems_of(document)
    if problems:
        raise RunbookInvalid(problems)
    forms: dict[str, dict[str, Any]] = document.data.get("services") or {}
    needed = {each for form in forms.values() for each in form.get("needs") or []}
    known = [
        Known(
            name,
            form.get("run", RunBy.EXTERNAL) != RunBy.EXTERNAL,
            name in needed,
            urlsplit(str((form.get("ready") or {}).get("http", ""))).path,
        )
        for name, form in forms.items()
    ]
    if not known:
        raise UsageError(f"{path} has no services", hint="a runbook checks the services of its stack")
    return str(document.data.get("name", path.stem)), known


def _target(services: list[Known], stack: str) -> Known:
    """What such a runbook breaks, or mends: something that can be, and on which as little as possible depends."""
    mortal = sorted((service for service in services if service.can_break), key=lambda service: service.is_needed)
    if not mortal:
        hint = "`run: process` or `run: docker` says how one is started and stopped"
        raise UsageError(f"k2run can stop and start no service of {stack}", hint=hint)
    return mortal[0]
