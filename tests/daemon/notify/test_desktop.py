"""A desktop notification on a bus of its own, to a daemon that keeps what it is asked to show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2run.daemon.channels import Channel, Moment, Occasion, send

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("dbus_fast", reason="dbus-fast is not installed")
for program in ("dbus-daemon", "notify-send"):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed", allow_module_level=True)
DAEMON = Path(__file__).parent / "notification_daemon.py"


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file in which a notification daemon keeps what it shows."""
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address=unix:path={tmp_path}/bus"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert bus.stdout is not None
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.stdout.readline().strip())
    kept = tmp_path / "shown.jsonl"
    daemon = subprocess.Popen([sys.executable, DAEMON, kept], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == "ready\n"
    yield kept
    for process in (daemon, bus):
        process.terminate()
        process.wait(10)


def test_a_message_is_shown_on_the_desktop_and_what_is_urgent_stays(shown: Path) -> None:
    for occasion in (Occasion.FAILURE, Occasion.RECOVERED):
        moment = Moment(
            occasion=occasion, key="x", title=f"--{occasion} <b>", cause="why & where", link="http://x/?a&b"
        )
        send(Channel(desktop=True), moment)
    failure, recovered = (json.loads(line) for line in shown.read_text().splitlines())
    assert failure == {
        "app": "k2run",
        "title": "--failure <b>",
        "text": "why &amp; where\nhttp://x/?a&amp;b",
        "urgency": 2,
    }
    assert (recovered["title"], recovered["urgency"]) == ("--recovered <b>", 1)


def test_without_a_desktop_it_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/nobody")
    with pytest.raises(subprocess.CalledProcessError):
        send(Channel(desktop=True), Moment(occasion=Occasion.START, key="x", title="x"))
