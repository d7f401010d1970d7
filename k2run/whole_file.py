"""Files that appear as a whole: a reader never meets half of one, and a writer that dies leaves what was there."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A draft beside a file, which takes its place at the end; when anything goes wrong, the draft is thrown away.

    Raises:
        OSError: It cannot take its place.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def created(path: Path, content: bytes) -> bool:
    """Make a file with its whole content at once, unless there is one; of several writers one does.

    Returns:
        Whether this one did.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        draft.write_bytes(content)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
