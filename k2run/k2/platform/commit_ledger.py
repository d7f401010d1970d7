"""What a table has taken from its topic.

It is kept in a property of the table and changes in the same commit as the rows, so whoever has the rows also has the
offsets they came from: there is no moment between the two in which a kill could strike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

PROPERTY = "k2.ledger"


class Deferred(msgspec.Struct, frozen=True):
    """A spill file whose messages were shed: taken from the topic and still to be put into the table."""

    file: str
    messages: int


class Ledger(msgspec.Struct, frozen=True):
    """One topic's account.

    `life` is the topic's id: the offsets of an earlier life are worth nothing in the next. `offsets` are the next to
    read, by partition; a partition that is missing starts at 0.
    """

    life: str = ""
    offsets: dict[int, int] = {}
    deferred: tuple[Deferred, ...] = ()

    def begin(self, life: str) -> Ledger:
        """The ledger for this life of the topic; what was deferred stays deferred."""
        return self if life == self.life else Ledger(life, {}, self.deferred)

    def reread(self) -> Ledger:
        """The ledger before anything of this life was read."""
        return Ledger(self.life, {}, self.deferred)

    def advance(self, offsets: Mapping[int, int]) -> Ledger:
        """The ledger after reading up to `offsets`."""
        return Ledger(self.life, {**self.offsets, **offsets}, self.deferred)

    def defer(self, spilled: Deferred) -> Ledger:
        """The ledger after one more spill file."""
        return Ledger(self.life, self.offsets, (*self.deferred, spilled))

    def restore(self, spilled: Deferred) -> Ledger:
        """The ledger after the messages of a spill file went into the table."""
        return Ledger(self.life, self.offsets, tuple(other for other in self.deferred if other != spilled))

    @property
    def pending(self) -> int:
        """Messages that are deferred."""
        return sum(spilled.messages for spilled in self.deferred)


def read(properties: Mapping[str, str]) -> Ledger:
    """The ledger in a table's properties; an empty one for a new table."""
    text = properties.get(PROPERTY)
    return msgspec.json.decode(text, type=Ledger) if text else Ledger()


def write(ledger: Ledger) -> dict[str, str]:
    """The ledger as a table property."""
    return {PROPERTY: msgspec.json.encode(ledger).decode()}
