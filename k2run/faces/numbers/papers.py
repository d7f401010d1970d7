"""Writes documents out of evidence."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from k2run.actions.catalogue import Catalogue
from k2run.engine.store import Store
from k2run.errors import OperatorError, RunbookInvalid, UsageError
from k2run.evidence.documents.document import Document, make, templates
from k2run.evidence.documents.sources import Sources
from k2run.evidence.history import History
from k2run.faces.launch import runbook_roots
from k2run.faces.listing import runbook_files
from k2run.language.loader import load_runbook
from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.evidence.documents.quote import Footnotes
    from k2run.language.model import Runbook

FOLDER = "documents"
"""Folder beside the runbooks with the templates."""


def write_documents(kind: str, *, into: str, stack: str, max_age: str) -> int:
    """Write one kind of document, or all of them.

    Args:
        kind: A kind, or `all`.
        into: The folder for them.
        stack: Quote only runs on this stack; "" for all.
        max_age: Overrides the age from which on a value is stale.

    Returns:
        How many problems the documents have; they are told on stderr.

    Raises:
        UsageError: There is no such kind.
        OperatorError: A document cannot be written.
    """
    known = templates([root / FOLDER for root in runbook_roots()])
    if kind != "all" and kind not in known:
        raise UsageError(
            f"there is no document {kind!r}", hint=did_you_mean(kind, known) or f"there are: {', '.join(known)}, all"
        )
    store = Store()
    sources = partial(_sources, History(store.home), store.home / "runs", list(_runbooks()), stack)
    problems = 0
    for name in known if kind == "all" else [kind]:
        document = make(known[name], sources, max_age=max_age)
        problems += len(document.problems)
        _write(document, Path(into))
    return problems


def _sources(history: History, runs: Path, runbooks: list[Runbook], stack: str, notes: Footnotes) -> Sources:
    return Sources(history, runs, runbooks, notes, stack)


def _runbooks() -> Iterator[Runbook]:
    for file in runbook_files():
        try:
            yield load_runbook(file, Catalogue())
        except RunbookInvalid:
            print(f"{file} is left out: it is not valid", file=sys.stderr)


def _write(document: Document, folder: Path) -> None:
    files = {document.heading.file: document.text.encode()}
    if document.heading.json:
        files[document.heading.json] = msgspec.json.format(msgspec.json.encode(document.quotes)) + b"\n"
    for name, content in files.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        except OSError as error:
            raise OperatorError(
                f"{folder / name} cannot be written: {error.strerror}", hint="choose `--into`"
            ) from error
        print(folder / name)
    for problem in document.problems:
        print(f"  {document.heading.file}: {problem}", file=sys.stderr)
