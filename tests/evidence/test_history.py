import duckdb
import msgspec
import pytest

from k2run.bench.regression import difference, trends
from k2run.engine.events import Outcome, RunFinished, RunStarted, StepFinished
from k2run.engine.journal import JOURNAL
from k2run.errors import UsageError
from k2run.evidence.compare import compare
from k2run.evidence.history import MOST_PIECES, History
from k2run.evidence.measurements import sparkline
from k2run.evidence.view import view_of


def one_run(home, number, p99, *, ended=True, name="demo", **started):
    """A run's journal, with one figure."""
    folder = home / "runs" / f"20261121-{number:06}-{name}-aaaa"
    folder.mkdir(parents=True, exist_ok=True)
    at = f"2026-11-21T09:00:{number % 60:02}.000+00:00"
    begun = {"runbook": "r.yaml", "name": name, "title": "A run", "kind": "readiness", "digest": "d", "stack": "s"}
    step = {"step": "a", "section": "b", "name": "Load", "action": "bench.http", "outcome": Outcome.PASSED}
    events = [
        RunStarted(seq=1, at=at, run=folder.name, **begun, **started),
        StepFinished(seq=2, at=at, seconds=1.5, figures={"p99_ms": p99, "a.b c": 1}, result={"rate": 7.0}, **step),
    ]
    if ended:
        events.append(RunFinished(seq=3, at=at, outcome=Outcome.PASSED, verdict="go", exit_code=0, seconds=2.0))
    (folder / JOURNAL).write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return folder


def values(home, metric="p99_ms"):
    return [point.value for point in History(home).points(metric)]


def test_a_trend_shows_what_each_run_measured_and_the_line_that_says_so(tmp_path):
    for number in range(5):
        one_run(tmp_path, number, 10.0 + number)
    points = History(tmp_path).points("p99_ms")
    assert [point.value for point in points] == [10.0, 11.0, 12.0, 13.0, 14.0]
    assert {point.seq for point in points} == {2}
    assert values(tmp_path, "step: Load") == [1.5] * 5
    assert values(tmp_path, "Load/rate") == [7.0] * 5
    assert values(tmp_path, "seconds") == [2.0] * 5
    assert values(tmp_path, "a.b c") == [1.0] * 5


def test_what_is_kept_follows_journals_that_grow_change_or_go(tmp_path):
    first = one_run(tmp_path, 1, 10.0, ended=False)
    one_run(tmp_path, 2, 20.0)
    assert [run.verdict for run in History(tmp_path).runs()] == ["did not end", "go"]
    one_run(tmp_path, 1, 11.0)
    one_run(tmp_path, 3, 30.0)
    assert values(tmp_path) == [11.0, 20.0, 30.0]
    (first / JOURNAL).unlink()
    assert values(tmp_path) == [20.0, 30.0]


def test_a_torn_line_and_a_broken_cache_lose_nothing(tmp_path):
    folder = one_run(tmp_path, 1, 10.0)
    with (folder / JOURNAL).open("ab") as file:
        file.write(b'{"event":"step_finished","seq":4,"na')
    assert values(tmp_path) == [10.0]
    for piece in (tmp_path / "cache" / "history").iterdir():
        piece.write_bytes(b"not parquet")
    assert values(tmp_path) == [10.0]


def test_a_home_that_cannot_be_written_still_answers(tmp_path):
    one_run(tmp_path, 1, 10.0)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert values(tmp_path) == [10.0]


def test_many_pieces_are_put_together(tmp_path):
    for number in range(MOST_PIECES):
        one_run(tmp_path, number, float(number))
        History(tmp_path)
    assert len(list((tmp_path / "cache" / "history").iterdir())) == 2
    assert values(tmp_path) == [float(number) for number in range(MOST_PIECES)]


def test_an_empty_home_has_no_runs(tmp_path):
    assert not History(tmp_path).runs()
    assert not History(tmp_path).metrics()


def test_a_part_of_a_metric_is_enough_and_a_wrong_one_is_told_the_nearest(tmp_path):
    one_run(tmp_path, 1, 10.0)
    history = History(tmp_path)
    assert history.resolve("p99") == "p99_ms"
    with pytest.raises(UsageError) as refused:
        history.resolve("p90_ms")
    assert "p99_ms" in refused.value.hint


def test_only_the_wanted_runbook_counts(tmp_path):
    one_run(tmp_path, 1, 10.0)
    one_run(tmp_path, 2, 20.0, name="other")
    assert [point.value for point in History(tmp_path).points("p99_ms", name="other")] == [20.0]
    assert not History(tmp_path).runs(stack="elsewhere")


# --- what a change comes to -------------------------------------------------------------------------------------------


def test_a_difference_is_shown_only_where_chance_is_unlikely():
    assert difference([10, 11, 12, 10, 11], [20, 21, 22, 23, 20]).shown
    assert not difference([10, 20, 12, 18, 11], [11, 19, 13, 17, 12]).shown
    assert difference([1, 2, 3], [10, 20, 30]).says() == "not enough runs to tell"
    assert not difference([5] * 9, [5] * 9).shown


def test_the_test_gives_the_p_of_the_textbook():
    # U = 3, n = m = 5: exact two-sided p is 0.056; the normal approximation with continuity correction gives 0.060
    found = difference([1, 2, 3, 4, 8], [5, 6, 7, 9, 10])
    assert found.p == pytest.approx(0.0601, abs=0.0005)


def test_a_sparkline_is_as_wide_as_there_is_room():
    assert sparkline([1, 2, 3], 10) == "▁▅█"
    assert len(sparkline(list(range(1000)), 60)) == 60
    assert sparkline([2, 2], 10) == "▄▄"


def test_the_newest_runs_are_held_against_those_before(tmp_path):
    for number in range(25):
        one_run(tmp_path, number, 10.0 + number % 3 if number < 20 else 50.0 + number)
    [found] = trends("p99_ms", History(tmp_path).points("p99_ms"))
    assert found.change is not None
    assert found.change.says().startswith("up ")


def test_times_of_attended_and_unattended_runs_are_trends_of_their_own(tmp_path):
    for number in range(6):
        one_run(tmp_path, number, 10.0, attended=number in {1, 3})
    history = History(tmp_path)
    for metric in ("seconds", "step: Load"):
        newest, others = trends(metric, history.points(metric))
        assert (newest.title, [int(point.run[9:15]) for point in newest.points]) == (
            f"{metric}, unattended runs",
            [0, 2, 4, 5],
        )
        assert (others.of, [int(point.run[9:15]) for point in others.points]) == ("attended", [1, 3])
    [figure] = trends("p99_ms", history.points("p99_ms"))
    assert (figure.title, len(figure.points)) == ("p99_ms", 6), "a figure does not depend on who is there"
    assert [run.attended for run in history.runs()] == [False, True, False, True, False, False]


def test_a_cache_of_an_earlier_version_is_made_again(tmp_path):
    one_run(tmp_path, 1, 10.0, attended=True)
    History(tmp_path)
    [piece] = (tmp_path / "cache" / "history").glob("*.runs.parquet")
    older = tmp_path / "older.parquet"
    duckdb.sql(f"copy (select * exclude attended from '{piece}') to '{older}' (format parquet)")
    older.replace(piece)
    assert [point.attended for point in History(tmp_path).points("p99_ms")] == [True]


def test_what_is_published_has_the_columns_of_earlier_versions(tmp_path):
    one_run(tmp_path, 1, 10.0)
    assert "attended" not in History(tmp_path).arrow("runs").column_names


def test_two_runs_beside_each_other_tell_only_what_differs(good, demo_day):
    passed = next(step for step in demo_day if isinstance(step, StepFinished) and step.outcome is Outcome.PASSED)
    failed = msgspec.structs.replace(passed, outcome=Outcome.FAILED)
    worse = [failed if event is passed else event for event in demo_day]
    assert [row for row in compare(good, good) if row.kind in {"outcome", "time"}] == []
    rows = [row for row in compare(good, view_of(worse)) if row.kind == "outcome"]
    assert [row.says for row in rows] == ["worse"]
