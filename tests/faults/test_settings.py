"""A service gets its own settings back when it has others, and is left alone when it has not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.engine.dispatch import Caller
from k2run.engine.prompts import Nobody
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TESTED_ON = {"settings": "the sandbox"}

STACK = """\
stack: 1
name: becoming
services:
  plain: {run: process, command: [sleep, "600"]}
  becomes: {run: process, command: [sh, -c, "exec sleep 600"]}
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "stack.yaml").write_text(STACK)
    loaded = load_stack(str(tmp_path / "stack.yaml"), near=None, home=tmp_path / "home", overrides={})
    lifecycle.start(loaded, None, Deadline(10))
    yield loaded
    lifecycle.stop(loaded)


def restore(stack: Any, service: str) -> Any:
    caller = Caller(Catalogue(), stack, lambda _step: Nobody())
    return caller.call("settings.restore", {"service": service}, Deadline(10))


def pid(stack: Any, service: str) -> int | None:
    return next(look.status.pid for look in lifecycle.status(stack) if look.service.name == service)


@pytest.mark.parametrize("service", ["plain", "becomes"])
def test_a_service_with_its_own_settings_is_not_started_anew(stack: Any, service: str) -> None:
    before = pid(stack, service)
    assert not restore(stack, service).changed
    assert pid(stack, service) == before


def test_a_service_with_other_settings_gets_its_own_back(stack: Any) -> None:
    caller = Caller(Catalogue(), stack, lambda _step: Nobody())
    changed = {"service": "plain", "options": {"600": "500"}, "settle": 0}
    caller.call("settings.change", changed, Deadline(10), plan=lambda _undo: None)
    before = pid(stack, "plain")
    assert restore(stack, "plain").changed
    assert pid(stack, "plain") != before
