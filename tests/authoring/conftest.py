"""What the tests of authoring share."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.authoring.lint import Subject
from k2run.language.document import read_document
from k2run.language.loader import parse_runbook

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = {"runbook:": "runbook: 1\n", "kind:": "kind: readiness\n", "title:": "title: A test\nowner: platform\n"}
SECTIONS = "sections:\n  - name: Checks\n    steps:\n"
STEP = "      - name: The API is healthy\n        http.get: {service: api, path: /health}\n        expect: result.ok\n"


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture(scope="session")
def subject(catalogue: Catalogue) -> Callable[[str], Subject]:
    """A piece of a runbook, completed, as lint looks at it."""

    def make(piece: str) -> Subject:
        text = whole(piece)
        return Subject(parse_runbook(text, "runbook.yaml", catalogue), read_document(text, "runbook.yaml"))

    return make


def whole(piece: str) -> str:
    """A piece of a runbook with what it lacks: steps alone, or keys of the top."""
    if piece.startswith("- "):
        piece = SECTIONS + indent(piece, " " * 6)
    head = "".join(text for key, text in HEAD.items() if not piece.startswith(key) and f"\n{key}" not in piece)
    if "sections:" not in piece:
        piece += SECTIONS + STEP.replace("result.ok", "result.status == 200")
    return head + piece
