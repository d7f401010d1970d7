"""Files of shed messages: where they wait, outside the table, until the load is back to normal."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import msgspec

from k2run.sandbox.ledger import Deferred

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


class Taken(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message's body and where it was."""

    partition: int
    offset: int
    value: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Taken]).decode


class Spill:
    """The directory of spill files of one table. A file counts only once a committed ledger names it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, messages: Sequence[Taken]) -> Deferred:
        """Write the messages to a new file and to the disk below it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"{uuid.uuid4().hex}.msgpack"
        with (self._directory / name).open("wb") as file:
            file.write(_encode(messages))
            file.flush()
            os.fsync(file.fileno())
        return Deferred(name, len(messages))

    def load(self, spilled: Deferred) -> list[Taken]:
        """The messages of a file.

        Raises:
            OSError: the file is not there any more.
        """
        return _decode((self._directory / spilled.file).read_bytes())

    def keep_only(self, wanted: Iterable[Deferred]) -> None:
        """Delete the files no ledger names: those already restored, and those a kill left without their commit."""
        names = {spilled.file for spilled in wanted}
        for path in self._directory.glob("*.msgpack"):
            if path.name not in names:
                path.unlink(missing_ok=True)
