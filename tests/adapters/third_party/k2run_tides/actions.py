"""The tide, from the file that a gauge writes: an adapter in a package of its own. k2run knows nothing of it."""

from __future__ import annotations

import time
from pathlib import Path

from k2run.actions.action import Blast, Effect, Result, Striking, Undo, action, fault
from k2run.actions.connection import Connection
from k2run.errors import Refused, Unreachable


class Gauge(Connection, frozen=True, kw_only=True, key="gauge"):
    """What a stack file says under `connections: {gauge: …}`.

    Attributes:
        file: The file that the gauge writes, with the level in centimetres and nothing else.
    """

    file: str


class Level(Result, frozen=True, kw_only=True):
    """A level.

    Attributes:
        level_cm: Centimetres above chart datum.
    """

    level_cm: float

    def headline(self) -> str:
        """Such as `312 cm`."""
        return f"{self.level_cm:g} cm"


@action("tides.level")
def level(gauge: Gauge) -> Level:
    """How high the water stands.

    Raises:
        Unreachable: The gauge has written no level.
    """
    try:
        return Level(level_cm=float(Path(gauge.file).read_text()), source=gauge.file)
    except (OSError, ValueError) as error:
        raise Unreachable(f"{gauge.file} has no level: {error}", hint="see connections.gauge.file") from error


@action("tides.tell", effect=Effect.CHANGES)
def tell(gauge: Gauge, level_cm: float) -> Level:
    """Write a level in the gauge's place.

    Args:
        level_cm: Centimetres above chart datum.
    """
    Path(gauge.file).write_text(str(level_cm))
    return Level(level_cm=level_cm, source=gauge.file)


@fault("tides.flood", blast=Blast.DATA)
def flood(gauge: Gauge, by_cm: float) -> Striking[Level]:
    """Make the gauge tell too high a level. Undone by telling the one that was there.

    Args:
        by_cm: Centimetres too high.

    Raises:
        Refused: It would be none.
    """
    if by_cm <= 0:
        raise Refused("tides.flood: by_cm must be more than 0")
    before = level(gauge).level_cm
    yield Undo(action="tides.tell", args={"level_cm": before}, says=f"tell {before:g} cm again")
    return tell(gauge, before + by_cm)


@action("tides.wait")
def wait(gauge: Gauge) -> Level:
    """Wait for the tide, deaf to every deadline."""
    time.sleep(3600)
    return level(gauge)
