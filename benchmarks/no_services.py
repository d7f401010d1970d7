"""The services of a stack that has none: for loads that are given an address."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.stack.services import Services
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_services() -> Iterator[Services]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stack.yaml"
        path.write_text("stack: 1\nname: none\n")
        yield Services.of(load_stack(str(path), near=None, home=Path(folder) / ".k2run", overrides={}))
