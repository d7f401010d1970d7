"""What a load writes: synthetic messages, given values, or bytes of a set size."""

from __future__ import annotations

import random
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.adapters.kafka.form import made_up
from k2run.adapters.kafka.transfer import given

if TYPE_CHECKING:
    from collections.abc import Iterator

POOL = 1000
"""Messages that take turns."""
POOL_BYTES = 16 * 2**20
"""What their values may need at most."""


class Payloads(Struct, frozen=True, kw_only=True):
    """Endless messages.

    Attributes:
        template: Of synthetic messages; empty for `values` or `size`.
        frame: Id of the Avro schema of synthetic messages; 0 for JSON.
        prefix: Of the ids of synthetic messages.
        symbols: The keys of synthetic messages.
        values: They take turns.
        size: Bytes of values made up from the seed, which cannot be compressed; 0 for `values`.
        keys: Of `values`, or of values of a size; they take turns.
    """

    template: str = ""
    frame: int = 0
    prefix: str = ""
    symbols: list[str] = []
    values: list[bytes] = []
    size: int = 0
    keys: list[str] = []
    seed: int = 1

    def messages(self) -> Iterator[dict[str, Any]]:
        """The messages, as librdkafka's client takes them; none comes again before many others have."""
        if self.template:
            made = made_up(self.template, self.prefix, self.seed, self.symbols, self.frame)
            return ({"key": key, "value": value} for key, value in made)
        length = POOL - POOL % (len(self.keys) or 1) or len(self.keys)  # so that keys go on evenly
        pool = [{"key": key, "value": value} for key, value in islice(given(self._values(), self.keys), length)]
        return cycle(pool)

    def _values(self) -> list[bytes]:
        if self.values:
            return self.values
        made_up = random.Random(self.seed)  # noqa: S311 - a load, not a secret
        return [made_up.randbytes(self.size) for _ in range(max(1, min(POOL, POOL_BYTES // self.size)))]
