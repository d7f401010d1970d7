"""Files that appear as a whole: a reader never meets half of one, and a writer that dies leaves what was there."""

from __future__ import annotations

import errno
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


def rewritten(path: Path, content: bytes) -> None:
    """Replace what is in a small file as a whole; on a full disk it is written over in its place: that takes no room.

    Raises:
        OSError: It cannot be written, or is not there yet and there is no room for it.
    """
    try:
        with drafted(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        file = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(file, content, 0)
            os.ftruncate(file, len(content))
        finally:
            os.close(file)


def created(path: Path, content: bytes) -> bool:
    """Make a private file with its whole content at once, unless there is one; of several writers one does.

    Returns:
        Whether this one did.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(content)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
