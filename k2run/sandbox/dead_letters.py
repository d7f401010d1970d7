"""Messages that cannot become rows: written to files, one JSON object a line, while the consumer goes on."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from k2run.sandbox.rows import Rejected

_ROTATE_BYTES = 100 * 1024 * 1024


class DeadLetters:
    """The dead-letter files of one process. After a kill a message may be found in them twice, never not at all."""

    def __init__(self, directory: Path, group: str) -> None:
        self._directory = directory
        self._group = group
        self._file: Path | None = None

    def add(self, topic: str, rejected: Iterable[Rejected]) -> None:
        """Append the messages to the current file; bodies that are not UTF-8 are kept as base64."""
        lines = [msgspec.json.encode(self._entry(topic, one)) + b"\n" for one in rejected]
        if not lines:
            return
        if self._file is None or self._file.stat().st_size > _ROTATE_BYTES:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = self._directory / f"dlq_{datetime.now(UTC):%Y%m%d_%H%M%S_%f}.jsonl"
        with self._file.open("ab") as file:
            file.writelines(lines)

    def _entry(self, topic: str, one: Rejected) -> dict[str, object]:
        at = {"consumer_group": self._group, "topic": topic, "schema_version": "v2"}
        return {
            "timestamp": datetime.now(UTC).isoformat(),
            "error": str(one.error),
            "error_type": type(one.error).__name__,
            **_body(one.message.value),
            "metadata": {**at, "partition": one.message.partition, "offset": one.message.offset},
        }


def _body(value: bytes) -> dict[str, str]:
    try:
        return {"message": value.decode()}
    except UnicodeDecodeError:
        return {"message_base64": base64.b64encode(value).decode()}
