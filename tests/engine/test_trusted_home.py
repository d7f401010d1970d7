"""The k2run home is believed in only when it is this account's own; names never lead out of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
from k2run.engine.events import UndoPlanned
from k2run.engine.journal import Journal
from k2run.engine.store import Store, hold, holder
from k2run.errors import RunbookInvalid, UsageError
from k2run.files import checked_name, name_objection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Bench

HOSTILE = (
    "team/f",
    "../../x",
    "..",
    ".",
    ".hidden",
    "",
    " ",
    "a/b",
    "a\0b",
    "a\nb",
    "-rf",
    "x" * 300,
    "a\\b",
    "a:b",
    "end.",
)
STRANGER = 65533
BROKEN = """
runbook: 1
kind: readiness
name: dead
sections: [{name: S, steps: [{set: {a: 1}}]}]
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another account")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_file_name_is_refused_wherever_a_path_is_made(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "home")
    assert name_objection(name)
    with pytest.raises(UsageError, match="cannot be the name of"):
        store.new_run(name, "")
    with pytest.raises(UsageError, match="cannot be the name of"):
        store.stack_folder(name)
    with pytest.raises(UsageError):
        store.find_run(name)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", [name for name in HOSTILE if name and "\0" not in name])
def test_such_a_name_of_a_runbook_is_a_problem_of_its_file(bench: Bench, name: str) -> None:
    import json

    text = (
        f"runbook: 1\nkind: readiness\nname: {json.dumps(name)}\nsections: [{{name: S, steps: [{{set: {{a: 1}}}}]}}]\n"
    )
    with pytest.raises(RunbookInvalid) as raised:
        bench.request(text)
    assert any("cannot be the name of a runbook" in problem.message for problem in raised.value.problems)


@pytest.mark.parametrize("name", ["demo-day", "Größe", "team f", "a.b", "k2_run", "日次", "1", "x" * 100])
def test_other_names_are_taken(tmp_path: Path, name: str) -> None:
    assert checked_name(name, "a runbook") == name
    assert Store(tmp_path / "home").new_run(name, "").parent == tmp_path / "home" / "runs"


def test_what_is_made_in_the_home_is_private(bench: Bench, readiness: Callable[..., str]) -> None:
    bench.run(readiness("- {name: Nothing, set: {a: 1}}\n- {name: Checks, assert: {that: 1 == 1}}\n"))
    folder = bench.store.find_run("last")
    for path in (bench.store.home, bench.store.home / "runs", folder, bench.store.stack_folder("none")):
        assert path.stat().st_mode & 0o777 == 0o700, path
    for path in (folder / "journal.jsonl", folder / "runbook.yaml", bench.store.stack_folder("none") / "lock"):
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_a_home_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link to"):
        Store(tmp_path / "home")


def test_a_home_that_anybody_can_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o777)
    with pytest.raises(UsageError, match="can be changed by anybody"):
        Store(tmp_path / "home")


def test_a_lock_or_a_mark_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    folder = store.stack_folder("none")
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_text("precious")
    (folder / "lock").symlink_to(tmp_path / "precious")
    (folder / "open-run").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="is a link to"), hold(folder, "none", "run"):
        pass
    with pytest.raises(UsageError, match="is a link to"):
        store.open_run("none")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_mark_that_leads_out_of_the_home_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    folder = store.stack_folder("none")
    folder.mkdir(parents=True)
    (folder / "open-run").write_text("../../../planted")
    with pytest.raises(UsageError, match="cannot be the name of a run"):
        store.open_run("none")


@needs_root
@pytest.mark.parametrize("what", ["home", "home/stacks/none", "home/stacks/none/lock", "home/stacks/none/open-run"])
def test_what_another_account_has_made_is_refused_and_its_owner_named(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "home" / "stacks" / "none"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "open-run").write_text("20260101-000000-x-000aa")
    os.chown(tmp_path / what, STRANGER, STRANGER)
    with pytest.raises(UsageError, match=f"belongs to (uid-{STRANGER}|[a-z]+), and this is"):
        use(tmp_path / "home")


def use(home: Path) -> None:
    """What every command that runs something does with its home."""
    store = Store(home)
    store.open_run("none")
    with hold(store.stack_folder("none"), "none", "run"):
        pass


@needs_root
def test_a_journal_of_another_account_is_not_undone(bench: Bench) -> None:
    folder = bench.store.new_run("dead", "")
    (folder / "journal.jsonl").write_text("")
    os.chown(folder / "journal.jsonl", STRANGER, STRANGER)
    with hold(bench.store.stack_folder("none"), "none", "run"):
        bench.store.stack_folder("none").joinpath("open-run").write_text(folder.name)
    code, out = bench.output("undo")
    assert code != 0
    assert "belongs to" in out
    assert "Traceback" not in out


def test_nobody_holds_a_stack_whose_folder_is_not_there(tmp_path: Path) -> None:
    assert holder(tmp_path / "none") == ""


@pytest.mark.parametrize(
    "planted",
    [
        ("shell.run", {"command": "touch planted"}),
        ("docker.run", {"command": "touch planted"}),
        ("service.kill", {"service": "one"}),
        ("no.such", {}),
    ],
    ids=lambda planted: planted[0],
)
def test_undo_shows_each_action_and_plays_only_what_a_fault_can_have_planned(
    bench: Bench, planted: tuple[str, dict[str, str]]
) -> None:
    action, args = planted
    folder = bench.store.new_run("dead", "")
    bench.run(BROKEN)
    begun = bench.journal()[0]
    journal = Journal(folder)
    journal.record(begun)
    journal.record(UndoPlanned(undo="undo-1", step="s", action=action, args=args, says="put it back"))
    with hold(bench.store.stack_folder("none"), "none", "run"):
        bench.store.mark_open("none", folder.name)
    code, out = bench.output("undo", f"--stack={bench.stack_file}")
    assert code == 1, out
    assert f"undo     {action} " in out
    assert "not played" in out or "there is no action" in out
    assert not (bench.folder / "planted").exists()


def test_every_fault_says_what_undoes_it() -> None:
    catalogue = Catalogue()
    faults = [action for action in catalogue.all() if action.effect is Effect.BREAKS]
    for fault in faults:
        undos = fault.call.__k2run__.undone_by  # type: ignore[attr-defined]
        assert undos, fault.name
        for name in undos:
            undo = catalogue.find(name)
            assert undo is not None, name
            assert undo.effect not in {Effect.BREAKS, Effect.DESTROYS}, name
