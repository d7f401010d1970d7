"""A callback plugin that Ansible loads: writes each task's result, and the recap, as a line of JSON.

It runs in Ansible's own process, with whatever Python that has: nothing of k2run is imported here.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: k2run_events
type: notification
short_description: Writes the results of tasks as lines of JSON
description: The file is the one that the environment variable K2RUN_EVENTS names.
"""
LONGEST = 500
"""Characters of a message that are kept."""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible has no types
    """Follows a run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "k2run_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._file = open(os.environ["K2RUN_EVENTS"], "a", encoding="utf-8", buffering=1)  # noqa: PTH123, SIM115
        self._play = ""
        self._began: dict[tuple[str, str], float] = {}
        self._items: dict[tuple[str, str], list[str]] = {}

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play begins."""
        self._play = play.get_name().strip()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """A task begins on a host."""
        self._began[host.get_name(), task._uuid] = time.monotonic()  # noqa: SLF001

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """An item of a loop has failed; the result of the whole loop does not say which."""
        self._items.setdefault(_key(result), []).append(_message(_fields(result)))

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task has passed."""
        self._write(result, "changed" if _fields(result).get("changed") else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task has failed."""
        self._write(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host could not be reached."""
        self._write(result, "unreachable")

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task was left out."""
        self._write(result, "skipped")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The run has ended."""
        hosts = [{"host": host, **stats.summarize(host)} for host in sorted(stats.processed)]
        self._file.write(json.dumps({"recap": hosts}) + "\n")

    def _write(self, result: Any, status: str) -> None:
        key, fields = _key(result), _fields(result)
        began, items = self._began.pop(key, None), self._items.pop(key, [])
        line = {
            "play": self._play,
            "task": result._task.get_name().strip(),  # noqa: SLF001
            "host": key[0],
            "status": status,
            "changed": bool(fields.get("changed")),
            "message": ("; ".join(items) or _message(fields))[:LONGEST],
            "seconds": None if began is None else round(time.monotonic() - began, 3),
        }
        self._file.write(json.dumps(line, default=str) + "\n")


def _fields(result: Any) -> dict[str, Any]:
    return dict(result._result)  # noqa: SLF001 - `result` from 2.19 on alone


def _key(result: Any) -> tuple[str, str]:
    return result._host.get_name(), result._task._uuid  # noqa: SLF001


def _message(fields: dict[str, Any]) -> str:
    """What a task says; Ansible has hidden what is `no_log` before."""
    if "censored" in fields:
        return "hidden (no_log)"
    parts = [fields.get("msg"), fields.get("module_stderr") or fields.get("stderr")]
    return ": ".join(" ".join(str(part).split()) for part in parts if part)
