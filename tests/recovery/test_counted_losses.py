"""What only a broker in memory had when everything died is counted out of the logs that are left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from wheel_programs import free_ports

from k2run.actions.deadline import Deadline
from k2run.engine.events import StepFinished
from k2run.engine.run import run
from k2run.stack import lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(__file__).parents[2] / "runbooks" / "recovery" / "total-failure.yaml"
STACK = """\
stack: 1
name: died
platform: k2
roles: {{topic: market.crypto.trades.binance}}
connections: {{kafka: {{bootstrap: "127.0.0.1:{port}"}}}}
services:
  broker: {{run: process, command: [python, -m, k2run.k2.platform.broker, --port, {port}], stop_signal: SIGINT,
    ready: {{tcp: "127.0.0.1:{port}"}}}}
  stream: {{run: process, command: [python, "{{{{ here }}}}/says.py", stream]}}
  consumer: {{run: process, command: [python, "{{{{ here }}}}/says.py", consumer]}}
  api: {{run: process, command: [sleep, 600]}}
"""
SAYS = """\
import json, sys, time
from datetime import UTC, datetime, timedelta
now = datetime.now(UTC)
for ago, text in json.loads({lines!r})[sys.argv[1]]:
    print(f"{{(now - timedelta(seconds=ago)).isoformat().replace('+00:00', 'Z')}} [info    ] {{text}}", flush=True)
time.sleep(600)
"""
PROGRESS = "streaming_progress trades_streamed=100 errors=0"
BATCH = "Batch processed batch_size=200 total_consumed=200 total_written=200"


@pytest.fixture
def told(site) -> Iterator[object]:
    """What the recovery counts, by the lines of the logs and the seconds that they are old."""
    own = (site.folder / "stack.yaml").read_text()

    def count(lines: dict[str, list[tuple[float, str]]]) -> list[StepFinished]:
        (site.folder / "says.py").write_text(SAYS.format(lines=json.dumps(lines)))
        (site.folder / "stack.yaml").write_text(STACK.format(port=free_ports(1)[0]))
        stack, deadline = site.stack(), Deadline(60)
        lifecycle.start(stack, None, deadline)
        while any(len(list(lifecycle.logs(stack, name))) < len(said) for name, said in lines.items()):
            deadline.sleep(0.05)
        shipped = yaml.safe_load(SHIPPED.read_text())
        steps = [one for one in shipped["sections"] if one["name"] in ("Read what was in flight", "Start the broker")]
        assert len(steps) == 2
        left = {name: value for name, value in shipped.items() if name not in ("objective", "steady_state", "alerts")}
        run(site.request(site.runbook(yaml.safe_dump({**left, "sections": steps}, sort_keys=False))))
        return [one for one in site.seen if isinstance(one, StepFinished) and one.name.startswith("Count the trades")]

    yield count
    lifecycle.stop(site.stack())
    (site.folder / "stack.yaml").write_text(own)


@pytest.mark.parametrize("lag", [None, 40])
def test_what_the_stream_sent_since_the_last_batch_and_what_was_behind_it_is_lost(told, lag):
    batch = BATCH if lag is None else f"{BATCH} lag={lag}"
    sent = [(seconds, PROGRESS) for seconds in range(90, 0, -1)]
    [counted] = told({"stream": sent, "consumer": [(80.0, batch), (60.5, batch)]})
    assert counted.figures == {"rows_lost_about": 6_000 + (lag or 0)}, counted.message
    assert "request them from the source again" in counted.hint


def test_a_consumer_that_has_written_nothing_leaves_the_count_open(told):
    [counted] = told({"stream": [(1.0, PROGRESS)], "consumer": [(2.0, "topics_opened")]})
    assert counted.figures == {}
    assert counted.outcome.value != "passed"
