import io
import os
import subprocess
import sys

import msgspec

from k2run.engine.events import AnyEvent, StepFinished, StepStarted, StepTried
from k2run.terminal.mode import open_face


def shown(events, mode="plain"):
    stream = io.StringIO()
    with open_face(mode, stream) as face:
        for event in events:
            face.see(event)
    return stream.getvalue()


def test_every_finished_step_is_one_line_with_time_outcome_name_measured_and_expected(demo_day):
    lines = shown(demo_day).splitlines()
    for event in demo_day:
        if isinstance(event, StepFinished):
            found = [line for line in lines if event.name[:39] in line and line.startswith(event.at[11:19])]
            assert found, event.name
    line = next(line for line in lines if "12,034 rows" in line)
    assert line.split("  ")[0].startswith("07:03:24 passed")
    assert "3.9s ≤ 20s" in line
    assert line.endswith("[result.rows > 1000]")


def test_a_failure_is_followed_by_cause_hint_and_recovery(consumer_killed):
    lines = shown(consumer_killed).splitlines()
    at = next(number for number, line in enumerate(lines) if " FAILED " in line)
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["cause", "hint", "recover"]
    assert "k2run run runbooks/recovery/duplicates.yaml" in lines[at + 3]


def test_the_verdict_is_at_the_end_and_what_is_still_broken_just_before(consumer_killed, demo_day):
    assert shown(demo_day).splitlines()[-2].startswith(" GO   subject to 3 items for a person")
    text = shown(consumer_killed)
    assert text.index("STILL BROKEN") < text.index(" INTERRUPTED")
    assert "k2run resume 20261121-091500-consumer-killed-x1" in text


def test_a_step_that_goes_on_trying_says_so_now_and_then():
    tries = [
        StepTried(step="s.steps[0]", attempt=n, t=float(n), headline=f"lag {n}", at="2026-11-21T07:03:12")
        for n in range(1, 61)
    ]
    begin = StepStarted(
        step="s.steps[0]", section="s", name="Lag is gone", action="kafka.lag", at="2026-11-21T07:03:12"
    )
    lines = shown([begin, *tries]).splitlines()
    assert [line.split()[-1] for line in lines] == ["15", "30", "45", "60"]


def test_json_lines_are_the_journal_again(demo_day):
    lines = shown(demo_day, "json").splitlines()
    assert [msgspec.json.decode(line, type=AnyEvent) for line in lines] == demo_day


def test_the_id_of_the_run_is_known_from_its_first_event(demo_day):
    with open_face("plain", io.StringIO()) as face:
        assert face.run == ""
        face.see(demo_day[0])
        assert face.run == "20261121-070312-demo-day-k4f2"


def test_a_resumed_run_shows_only_what_is_new_but_closes_over_all_of_it(demo_day):
    stream = io.StringIO()
    with open_face("plain", stream) as face:
        face.recall(demo_day[:60])
        for event in demo_day[60:]:
            face.see(event)
        assert face.run == "20261121-070312-demo-day-k4f2"
    assert "Broker answers" not in stream.getvalue()
    assert "17 passed" in stream.getvalue()


def test_nothing_that_a_system_answered_reaches_the_terminal_as_a_control_sequence(consumer_killed):
    for mode in ("plain", "json"):
        assert "\x1b" not in shown(consumer_killed, mode)


def test_plain_and_json_never_load_the_terminal_library():
    program = (
        "import io, sys\n"
        "from k2run.engine.events import RunStarted\n"
        "from k2run.terminal.mode import open_face\n"
        "event = RunStarted(run='r', runbook='', name='', title='', kind='', digest='', stack='')\n"
        "for mode in ('plain', 'json', 'auto'):\n"
        "    with open_face(mode, io.StringIO()) as face: face.see(event)\n"
        "import k2run.evidence.reports\n"
        "sys.exit(any(name.split('.')[0] in {'rich', 'jinja2'} for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_reader_that_goes_away_does_not_disturb_the_run(demo_day):
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    for mode in ("plain", "json"):
        with open_face(mode, stream) as face:
            for event in demo_day:
                face.see(event)
    stream.close()


def test_a_stream_that_knows_only_ascii_gets_words_and_simple_signs(demo_day):
    raw = io.BytesIO()
    with open_face("plain", io.TextIOWrapper(raw, encoding="ascii", write_through=True)) as face:
        for event in demo_day:
            face.see(event)
    text = raw.getvalue().decode("ascii")
    assert "3.9s <= 20s" in text
    assert " GO   subject to 3 items" in text
