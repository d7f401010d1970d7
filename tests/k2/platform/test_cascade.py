"""When the level rises, when it falls, and what each level sheds."""

from __future__ import annotations

import pytest

from k2run.k2.platform import cascade, trade
from k2run.k2.platform.cascade import Cascade, Level, Load, Transition

CALM = 10.0  # per cent of memory


@pytest.mark.parametrize(
    ("lag", "memory", "level"),
    [
        (99_999, 69.9, Level.NORMAL),
        (100_000, CALM, Level.SOFT),
        (0, 70.0, Level.SOFT),
        (500_000, CALM, Level.GRACEFUL),
        (0, 80.0, Level.GRACEFUL),
        (1_000_000, CALM, Level.AGGRESSIVE),
        (0, 90.0, Level.AGGRESSIVE),
        (5_000_000, CALM, Level.CIRCUIT_BREAK),
        (0, 95.0, Level.CIRCUIT_BREAK),
        (100_000, 95.0, Level.CIRCUIT_BREAK),
    ],
)
def test_a_level_is_entered_at_its_lag_or_its_memory(lag, memory, level):
    cascade = Cascade()
    cascade.observe(Load(lag, memory), now=0)
    assert cascade.level is level


def test_the_level_rises_at_once_and_may_skip_levels():
    cascade = Cascade()
    assert cascade.observe(Load(100_000, CALM), now=0) == Transition(Level.NORMAL, Level.SOFT)
    assert cascade.observe(Load(5_000_000, CALM), now=0.1) == Transition(Level.SOFT, Level.CIRCUIT_BREAK)


def test_the_level_falls_only_well_below_its_own_threshold():
    cascade = Cascade()
    cascade.observe(Load(600_000, CALM), now=0)
    assert cascade.observe(Load(250_000, CALM), now=100) is None
    assert cascade.observe(Load(249_999, 72.0), now=100) is None
    assert cascade.observe(Load(249_999, 71.9), now=100) == Transition(Level.GRACEFUL, Level.SOFT)


def test_the_level_falls_to_what_the_plain_thresholds_say():
    cascade = Cascade()
    cascade.observe(Load(6_000_000, CALM), now=0)
    assert cascade.observe(Load(0, CALM), now=30) == Transition(Level.CIRCUIT_BREAK, Level.NORMAL)


def test_the_level_holds_for_the_cooldown_after_a_change_in_either_direction():
    cascade = Cascade()
    cascade.observe(Load(600_000, CALM), now=0)
    assert cascade.observe(Load(150_000, CALM), now=29.9) is None
    assert cascade.observe(Load(150_000, CALM), now=30.0) == Transition(Level.GRACEFUL, Level.SOFT)
    assert cascade.observe(Load(0, CALM), now=59.9) is None
    assert cascade.observe(Load(0, CALM), now=60.0) == Transition(Level.SOFT, Level.NORMAL)


def test_an_unknown_lag_neither_raises_nor_lowers_the_level():
    cascade = Cascade()
    assert cascade.observe(Load(None, CALM), now=0) is None
    cascade.observe(Load(600_000, CALM), now=1)
    assert cascade.observe(Load(None, CALM), now=100) is None
    assert cascade.observe(Load(None, 96.0), now=101) == Transition(Level.GRACEFUL, Level.CIRCUIT_BREAK)


def test_the_lag_scale_moves_the_lag_thresholds_alone():
    cascade = Cascade(lag_scale=0.01)
    cascade.observe(Load(5_000, CALM), now=0)
    assert cascade.level is Level.GRACEFUL
    cascade.observe(Load(0, 89.9), now=0)
    assert cascade.level is Level.GRACEFUL


def test_bitcoin_and_ether_trades_are_never_shed():
    for level in Level:
        assert cascade.shed(level, trade.TOPIC, b"BTCUSDT") is None
        assert cascade.shed(level, trade.TOPIC, b"ETHUSDT") is None


@pytest.mark.parametrize(
    ("topic", "key", "kept_up_to", "reason"),
    [
        (trade.REFERENCE_TOPIC, b"BTCUSDT", Level.SOFT, "low_priority"),
        (trade.TOPIC, b"BNBUSDT", Level.GRACEFUL, "normal_priority"),
        (trade.TOPIC, None, Level.GRACEFUL, "normal_priority"),
        (trade.TOPIC, b"REA", Level.AGGRESSIVE, "non_critical"),
    ],
)
def test_the_less_important_a_message_the_earlier_it_is_shed(topic, key, kept_up_to, reason):
    for level in Level:
        why = cascade.shed(level, topic, key)
        assert (why is None) == (level <= kept_up_to)
        assert why is None or (why.reason == reason and why in cascade.EVERY_SHED)


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("topic", [trade.TOPIC, trade.REFERENCE_TOPIC])
def test_a_topic_that_is_kept_whole_has_no_key_that_is_shed(level, topic):
    keys = (b"BTCUSDT", b"REA", b"BNBUSDT")
    assert cascade.sheds_nothing(level, topic) == all(cascade.shed(level, topic, key) is None for key in keys)
