"""Messages on their way: each channel has a queue and a thread of its own, and tries again until it gives up."""

from __future__ import annotations

import queue
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.daemon.notify.channels import send
from k2run.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from k2run.daemon.notify.config import Channel
    from k2run.daemon.notify.moment import Moment

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
GIVE_UP_S = 900.0
LOG = "notified.jsonl"


class Outbox:
    """Sends moments through channels.

    Args:
        channels: The ways to people.
        log: What was sent, or given up; a moment that stands there is not sent again.
        give_up: Seconds after which a message is given up.
        first_pause: Seconds until the second attempt; doubled with each.
    """

    def __init__(
        self,
        channels: Iterable[Channel],
        log: Path,
        *,
        give_up: float = GIVE_UP_S,
        first_pause: float = FIRST_PAUSE_S,
    ) -> None:
        self._log = log
        self._give_up = give_up
        self._first_pause = first_pause
        self._sent = _settled(log)
        self._lock = threading.Lock()
        self._lanes: list[tuple[str, Channel, queue.SimpleQueue[Moment | None]]] = [
            (f"{number} {channel.kind}", channel, queue.SimpleQueue()) for number, channel in enumerate(channels)
        ]
        self._threads = [threading.Thread(target=self._work, args=lane, daemon=True) for lane in self._lanes]
        for thread in self._threads:
            thread.start()

    def put(self, moment: Moment) -> None:
        """Send a moment to everybody who wants it; returns at once."""
        for name, channel, lane in self._lanes:
            if channel.wants(moment.occasion) and (name, moment.key) not in self._sent:
                lane.put(moment)

    def close(self) -> None:
        """Wait until everything is sent or given up."""
        for _, _, lane in self._lanes:
            lane.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, name: str, channel: Channel, lane: queue.SimpleQueue[Moment | None]) -> None:
        while (moment := lane.get()) is not None:
            self._settle(name, channel, moment)

    def _settle(self, name: str, channel: Channel, moment: Moment) -> None:
        """Try until it is sent, or cannot be sent at all, or has taken too long."""
        end, pause, attempts = time.monotonic() + self._give_up, self._first_pause, 0
        while True:
            attempts += 1
            try:
                send(channel, moment)
            except UsageError as error:
                self._note(name, moment, attempts, error=channel.masked(error.message))
                return
            except Exception as error:  # noqa: BLE001 - whatever a network or a mail server does, it is tried again
                if time.monotonic() + pause > end:
                    self._note(name, moment, attempts, error=f"given up: {channel.masked(str(error))}")
                    return
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            else:
                self._note(name, moment, attempts)
                return

    def _note(self, name: str, moment: Moment, attempts: int, error: str = "") -> None:
        line: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "channel": name,
            "key": moment.key,
            "occasion": moment.occasion,
            "attempts": attempts,
            "error": error,
        }
        with self._lock, self._log.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def _settled(log: Path) -> set[tuple[str, str]]:
    """What an earlier messenger has sent or given up."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        try:
            entry = msgspec.json.decode(line)
            found.add((entry["channel"], entry["key"]))
        except (msgspec.DecodeError, KeyError, TypeError):
            continue  # a line that a crash has cut off
    return found
