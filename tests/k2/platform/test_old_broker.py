"""A broker that has run for long: each fetch looks through all batches there are."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from k2run.k2.platform import topics, trade
from k2run.k2.platform.queries import Trades
from k2run.k2.platform.queries_tail import BrokerTail, TailUnreadableError
from k2run.k2.platform.topics import Ledger

BATCHES = 20_000  # as many as half an hour of the stream makes for one symbol
PARTITION = 27
pytestmark = pytest.mark.slow


@pytest.fixture
def old(sandbox):
    sandbox.broker()
    admin = topics.admin(sandbox.bootstrap)
    sandbox.wait_for(lambda: admin.list_topics(timeout=5) is not None, 10, "the broker answers")
    topics.make_topics(admin)
    made = Producer({**topics.CLIENT, "bootstrap.servers": sandbox.bootstrap, "batch.num.messages": 1})
    for number in range(BATCHES):
        if number % 5000 == 0:
            made.flush(60)
        made.produce(trade.TOPIC, b"{}", b"BTCUSDT", partition=PARTITION)
    assert made.flush(60) == 0
    return sandbox


def test_the_tail_of_an_old_broker_is_read_to_its_end(old):
    tail = BrokerTail(old.bootstrap)
    life = topics.lives(topics.admin(old.bootstrap))[trade.TOPIC]
    taken = Ledger(life=life, offsets={PARTITION: BATCHES - 50})
    try:
        read = [tail.past(taken, Trades()) for _ in range(5)]
    except TailUnreadableError as error:
        pytest.fail(str(error))
    finally:
        tail.close()
    assert all(one.complete for one in read)
