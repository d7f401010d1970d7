import json
from pathlib import Path

from k2run.cli.document_tasks import write_cast
from k2run.engine.journal import read_journal
from k2run.terminal.live import WIDTH, cast

MEASURED = Path(__file__).parents[1] / "evidence" / "journals" / "measured.jsonl"


def test_a_cast_plays_the_run_in_its_own_time():
    head, *pieces = [json.loads(line) for line in cast(read_journal(MEASURED)).splitlines()]
    assert (head["version"], head["width"], head["title"]) == (2, WIDTH, "Demo day readiness")
    times = [at for at, _, _ in pieces]
    assert times == sorted(times)
    assert {kind for _, kind, _ in pieces} == {"o"}
    shown = "".join(text for _, _, text in pieces)
    assert "The backlog is drained" in shown
    assert "\x1b[32m" in shown
    assert "\n" not in shown.replace("\r\n", "")


def test_a_cast_is_written_beside_the_other_materials(tmp_path):
    write_cast(MEASURED, tmp_path / "reference" / "demo-day.cast")
    assert json.loads((tmp_path / "reference" / "demo-day.cast").read_text().splitlines()[0])["version"] == 2


def test_a_cast_of_nothing_is_still_a_cast():
    assert json.loads(cast([]))["version"] == 2
