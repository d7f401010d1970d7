"""Whose messages go first: the tiers of symbols, and what each level of the cascade sheds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from k2run.sandbox import reference
from k2run.sandbox.cascade import Level

_EQUITIES_1 = "BHP CBA CSL NAB WBC ANZ WES MQG RIO TLS WOW FMG NCM STO WPL AMC GMG TCL COL ALL"
_EQUITIES_2 = "REA QAN BXB ORG JHX"


class Priority(IntEnum):
    """Lower is more important."""

    CRITICAL = 1
    HIGH = 2
    NORMAL = 3
    LOW = 4


# K2 lists no crypto symbol, so its BTC and ETH trades are shed like any other; its documents say they are protected.
_TIERS = {
    **dict.fromkeys((b"BTCUSDT", b"ETHUSDT"), 1),
    **dict.fromkeys(_EQUITIES_1.encode().split(), 1),
    **dict.fromkeys(_EQUITIES_2.encode().split(), 2),
}
_LAST_TIER = 3

_MOST_KEPT = {
    Level.NORMAL: Priority.LOW,
    Level.SOFT: Priority.LOW,
    Level.GRACEFUL: Priority.NORMAL,
    Level.AGGRESSIVE: Priority.HIGH,
    Level.CIRCUIT_BREAK: Priority.CRITICAL,
}
_REASONS = {Priority.LOW: "low_priority", Priority.NORMAL: "normal_priority", Priority.HIGH: "non_critical"}


@dataclass(frozen=True, slots=True)
class Shed:
    """Why a message is shed, in the words of the metric's labels."""

    symbol_tier: str
    reason: str


def tier(key: bytes | None) -> int:
    """The tier of the symbol that is a message's key: 1, 2 or 3."""
    return _TIERS.get(key or b"", _LAST_TIER)


def priority(topic: str, key: bytes | None) -> Priority:
    """Reference data is always LOW; a trade has the priority of its symbol's tier."""
    return Priority.LOW if topic == reference.TOPIC else Priority(tier(key))


def shed(level: Level, topic: str, key: bytes | None) -> Shed | None:
    """Why this message is shed at this level, or None when it is kept."""
    own = priority(topic, key)
    if own <= _MOST_KEPT[level]:
        return None
    return Shed(f"tier_{tier(key)}", _REASONS[own])


def sheds_nothing(level: Level, topic: str) -> bool:
    """Whether every message of the topic is kept at this level, whatever its key."""
    return _MOST_KEPT[level] >= (Priority.LOW if topic == reference.TOPIC else Priority.NORMAL)


EVERY_SHED = (
    Shed("tier_1", "low_priority"),
    Shed("tier_3", "low_priority"),
    Shed("tier_3", "normal_priority"),
    Shed("tier_2", "non_critical"),
)
