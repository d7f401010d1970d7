"""The systemd actions with stand-ins for systemctl and journalctl: no test may start a real systemd.

The stand-ins print what the manual pages say, keep the state of the units in a file, and note how they are called.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from stand_ins import stand_in

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.adapters import systemd
from k2run.engine.execution import Options
from k2run.engine.request import Request
from k2run.engine.run import run
from k2run.engine.store import Store
from k2run.errors import Refused, TimedOut, Unknown, Unreachable
from k2run.language.loader import parse_runbook
from k2run.language.quantities import Duration
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TESTED_ON = {"systemd": "programs that stand in for systemctl and journalctl: see below"}

SYSTEMCTL = """
import json, os, sys, time

folder = os.path.dirname(os.path.abspath(sys.argv[0]))
units = json.load(open(folder + "/units.json"))
words = [word for word in sys.argv[1:] if not word.startswith("--")]
with open(folder + "/calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
verb, name = words
name = name if "." in name else name + ".service"
if units.get("broken"):
    print(units["broken"], file=sys.stderr)
    sys.exit(1)
if verb == "show":
    asked = next(word for word in sys.argv if word.startswith("--property=")).partition("=")[2].split(",")
    unit = {"Id": name, "LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead", **units.get(name, {})}
    for key in asked:
        if key in unit:
            print(f"{key}={unit[key]}")
    sys.exit(0)
unit = units[name]
if unit.get("refuses"):
    print(f"Failed to {verb} {name}: Access denied", file=sys.stderr)
    sys.exit(4)
if unit.get("hangs"):
    time.sleep(60)
if verb == "stop":
    unit.update(ActiveState="inactive", SubState="dead", MainPID="0")
else:
    unit.update(unit.get("after", {"ActiveState": "active", "SubState": "running", "MainPID": "4712"}))
json.dump(units, open(folder + "/units.json", "w"))
if unit["ActiveState"] == "failed":
    print(f"Job for {name} failed because the control process exited with error code.", file=sys.stderr)
    sys.exit(1)
"""
JOURNALCTL = """
import json, os, re, sys

options = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
folder = os.path.dirname(os.path.abspath(sys.argv[0]))
with open(folder + "/calls", "a") as calls:
    calls.write("journalctl " + " ".join(sys.argv[1:]) + "\\n")
lines = [json.loads(line) for line in open(folder + "/journal")]
lines = [line for line in lines if line["_SYSTEMD_UNIT"] == options["unit"]]
if "grep" in options:
    lines = [line for line in lines if isinstance(line["MESSAGE"], str) and re.search(options["grep"], line["MESSAGE"])]
    if not lines:
        print("-- No entries --")
        sys.exit(1)
if "priority" in options:
    names = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]
    lines = [line for line in lines if int(line["PRIORITY"]) <= names.index(options["priority"])]
for line in lines[-int(options["lines"]):]:
    print(json.dumps(line))
"""
RUNNING = {
    "LoadState": "loaded",
    "Description": "A web server",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "Result": "success",
    "NRestarts": "2",
    "MainPID": "4711",
    "ExecMainStatus": "0",
    "MemoryCurrent": "10485760",
    "Type": "notify",
}


class Machine:
    """The stand-ins and what they know."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stand_in(folder, "systemctl", SYSTEMCTL)
        stand_in(folder, "journalctl", JOURNALCTL)
        self.journal([])
        self.units()

    def units(self, **units: Any) -> None:
        known = {f"{name}.service": {**RUNNING, **unit} for name, unit in units.items() if isinstance(unit, dict)}
        known |= {name: said for name, said in units.items() if isinstance(said, str)}
        (self.folder / "units.json").write_text(json.dumps(known))

    def journal(self, lines: list[tuple[str, Any, int]]) -> None:
        written = [
            {
                "_SYSTEMD_UNIT": f"{unit}.service",
                "MESSAGE": said,
                "PRIORITY": str(level),
                "__REALTIME_TIMESTAMP": "1764406800000000",
            }
            for unit, said, level in lines
        ]
        (self.folder / "journal").write_text("".join(json.dumps(line) + "\n" for line in written))

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Iterator[Machine]:
    made = Machine(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.folder}{os.pathsep}{os.environ['PATH']}")
    return made


def soon(seconds: float = 20) -> Deadline:
    return Deadline(seconds)


def test_the_state_of_a_unit_and_what_is_not_kept_is_none(machine):
    since = int((time.monotonic() - 60) * 1e6)
    machine.units(nginx={"ActiveEnterTimestampMonotonic": str(since)})
    found = systemd.unit(soon(), "nginx")
    assert (found.unit, found.active, found.state, found.detail) == ("nginx.service", True, "active", "running")
    assert (found.restarts, found.pid, found.memory_bytes, found.exit_code) == (2, 4711, 10485760, None)
    assert 60 <= found.since_s < 80
    assert found.headline() == "nginx.service active (running), 2 restarts"
    dead = {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "ExecMainStatus": "3", "MainPID": "0"}
    machine.units(
        nginx={**dead, "MemoryCurrent": str(2**64 - 1), "NRestarts": "0", "InactiveEnterTimestampMonotonic": "0"}
    )
    found = systemd.unit(soon(), "nginx.service")
    assert (found.active, found.reason, found.exit_code, found.pid) == (False, "exit-code", 3, None)
    assert (found.memory_bytes, found.since_s) == (None, None)
    assert found.headline() == "nginx.service failed (failed), exit-code"


def test_a_unit_that_systemd_does_not_know_is_unknown_and_no_systemd_is_unreachable(machine):
    with pytest.raises(Unknown, match="systemd knows no unit gone"):
        systemd.unit(soon(), "gone")
    machine.units(broken="System has not been booted with systemd as init system (PID 1). Can't operate.")
    with pytest.raises(Unreachable, match=r"systemd does not answer.*a machine"):
        systemd.unit(soon(), "nginx")


def test_the_journal_of_a_unit_by_text_and_priority(machine):
    machine.units(nginx={})
    lines = [("nginx", "started", 6), ("nginx", "disk full", 3), ("other", "disk full", 3)]
    machine.journal([*lines, ("nginx", [103, 114, 195, 188, 195, 159, 101], 6)])
    found = systemd.journal(soon(), "nginx", since=Duration(90))
    assert [(one.message, one.priority) for one in found.entries] == [
        ("started", "info"),
        ("disk full", "err"),
        ("grüße", "info"),
    ]
    assert (found.count, found.newest, found.entries[0].time) == (3, "grüße", "2025-11-29T09:00:00+00:00")
    assert "--since=-90s --unit=nginx.service" in machine.calls[-1]
    assert systemd.journal(soon(), "nginx", priority="err").count == 1
    assert systemd.journal(soon(), "nginx", contains="full").newest == "disk full"
    assert systemd.journal(soon(), "nginx", contains="absent").count == 0
    with pytest.raises(Unknown, match="knows no unit"):
        systemd.journal(soon(), "gone")


def test_a_restart_waits_until_the_unit_is_active(machine):
    machine.units(nginx={}, backup={"Type": "oneshot", "after": {"ActiveState": "inactive", "Result": "success"}})
    found = systemd.restart(soon(), "nginx")
    assert (found.unit, found.state, found.pid) == ("nginx.service", "active", 4712)
    assert systemd.start(soon(), "backup").state == "inactive"
    assert [call for call in machine.calls if "restart" in call] == [
        "--no-pager --no-ask-password restart -- nginx.service"
    ]
    systemd.restart(soon(), "nginx", user=True)
    assert "--user --no-pager --no-ask-password restart -- nginx.service" in machine.calls


def test_a_restart_that_fails_is_refused_or_hangs_says_so(machine):
    ended = {"ActiveState": "inactive", "SubState": "dead", "Result": "success", "MainPID": "0"}
    machine.units(
        bad={"after": {"ActiveState": "failed"}}, shut={"refuses": True}, slow={"hangs": True}, brief={"after": ended}
    )
    with pytest.raises(Refused, match="control process exited with error code"):
        systemd.restart(soon(), "bad")
    with pytest.raises(Refused, match=r"Access denied.*as a user with that permission"):
        systemd.restart(soon(), "shut")
    with pytest.raises(TimedOut, match=r"did not finish within 2s.*list-jobs"):
        systemd.restart(soon(2), "slow")
    with pytest.raises(Refused, match=r"brief\.service is inactive after `systemctl restart`"):
        systemd.restart(soon(), "brief")


def test_a_stopped_unit_is_started_again_by_its_undo(machine):
    machine.units(nginx={})
    fault = systemd.stop(soon(), "nginx")
    undo = next(fault)
    assert (undo.action, undo.args) == ("systemd.start", {"name": "nginx.service", "user": False})
    assert not [call for call in machine.calls if " stop " in call]
    with pytest.raises(StopIteration) as done:
        next(fault)
    assert done.value.value.state == "inactive"
    with pytest.raises(Refused, match="cannot be stopped"):
        next(systemd.stop(soon(), "nginx"))
    for _ in range(2):
        assert systemd.start(soon(), **undo.args).state == "active"
    assert Catalogue().find("systemd.stop").effect == "breaks"


def test_a_run_that_fails_starts_the_unit_that_it_stopped(machine, tmp_path):
    machine.units(nginx={})
    text = (
        "runbook: 1\nkind: scenario\nname: stops\ntitle: Stops\nsections:\n  - name: Break\n    steps:\n"
        "      - {name: Stop, systemd.stop: {name: nginx}}\n"
        "      - {name: It is down, systemd.unit: {name: nginx}, expect: result.active}\n"
    )
    (tmp_path / "stack.yaml").write_text("stack: 1\nname: tested\n")
    catalogue, store = Catalogue(), Store(tmp_path / "home")
    request = Request(
        runbook=parse_runbook(text, "runbook.yaml", catalogue, home=tmp_path),
        stack=load_stack(str(tmp_path / "stack.yaml"), near=None, home=store.home, overrides={}),
        store=store,
        catalogue=catalogue,
        options=Options(),
        observers=(),
    )
    assert run(request).exit_code == 1
    assert [call.split()[2] for call in machine.calls if " show " not in call] == ["stop", "start"]
    assert systemd.unit(soon(), "nginx").active
