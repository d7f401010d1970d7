"""The degradation cascade: five levels of load, and when the consumer moves between them.

K2's thresholds and names. A level is entered as soon as the lag or the memory reaches its threshold, and may skip
levels upwards. It is left only when both are well below its own threshold and 30 s have passed since the last change;
then the level becomes whatever the plain thresholds say.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from k2run.k2.platform import trade

LAG_RECOVERY = 0.5  # of the current level's lag threshold
MEMORY_RECOVERY = 0.9  # of the current level's memory threshold
COOLDOWN_S = 30.0


class Level(IntEnum):
    """How much load the consumer is shedding."""

    NORMAL = 0
    SOFT = 1
    GRACEFUL = 2
    AGGRESSIVE = 3
    CIRCUIT_BREAK = 4


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where a level begins: lag in messages, memory in per cent of the consumer's budget."""

    lag: float
    memory: float


THRESHOLDS = {
    Level.SOFT: Threshold(100_000, 70.0),
    Level.GRACEFUL: Threshold(500_000, 80.0),
    Level.AGGRESSIVE: Threshold(1_000_000, 90.0),
    Level.CIRCUIT_BREAK: Threshold(5_000_000, 95.0),
}


@dataclass(frozen=True, slots=True)
class Load:
    """What the level is judged by; `lag` is None while it is unknown, as when the broker does not answer."""

    lag: int | None
    memory: float


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of level."""

    old: Level
    new: Level


class Cascade:
    """The current level. Times are monotonic seconds."""

    def __init__(self, lag_scale: float = 1.0, cooldown: float = COOLDOWN_S) -> None:
        self._thresholds = {level: Threshold(t.lag * lag_scale, t.memory) for level, t in THRESHOLDS.items()}
        self._cooldown = cooldown
        self._changed_at = float("-inf")
        self.level = Level.NORMAL

    def observe(self, load: Load, now: float) -> Transition | None:
        """Judge the load, and say what changed. An unknown lag can neither raise the level nor let it fall."""
        plain = max((level for level, at in self._thresholds.items() if _reaches(load, at)), default=Level.NORMAL)
        if plain > self.level or (plain < self.level and self._may_recover(load, now)):
            transition = Transition(self.level, plain)
            self.level, self._changed_at = plain, now
            return transition
        return None

    def _may_recover(self, load: Load, now: float) -> bool:
        own = self._thresholds[self.level]
        return (
            now - self._changed_at >= self._cooldown
            and load.lag is not None
            and load.lag < own.lag * LAG_RECOVERY
            and load.memory < own.memory * MEMORY_RECOVERY
        )


def _reaches(load: Load, threshold: Threshold) -> bool:
    return (load.lag is not None and load.lag >= threshold.lag) or load.memory >= threshold.memory


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
    return Priority.LOW if topic == trade.REFERENCE_TOPIC else Priority(tier(key))


def shed(level: Level, topic: str, key: bytes | None) -> Shed | None:
    """Why this message is shed at this level, or None when it is kept."""
    own = priority(topic, key)
    if own <= _MOST_KEPT[level]:
        return None
    return Shed(f"tier_{tier(key)}", _REASONS[own])


def sheds_nothing(level: Level, topic: str) -> bool:
    """Whether every message of the topic is kept at this level, whatever its key."""
    return _MOST_KEPT[level] >= (Priority.LOW if topic == trade.REFERENCE_TOPIC else Priority.NORMAL)


EVERY_SHED = (
    Shed("tier_1", "low_priority"),
    Shed("tier_3", "low_priority"),
    Shed("tier_3", "normal_priority"),
    Shed("tier_2", "non_critical"),
)
