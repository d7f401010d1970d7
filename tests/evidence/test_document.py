import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.errors import UsageError
from k2run.evidence.document import FORMS, Footnotes, Quote, make, templates
from k2run.evidence.document_sources import Sources
from k2run.evidence.history import History
from k2run.language.loader import load_runbook

ROOT = Path(__file__).parents[2]
JOURNALS = Path(__file__).parent / "journals"
TEMPLATES = templates([ROOT / "runbooks" / "documents"])
KINDS = {
    "quick-reference", "performance-results", "contingency-plan", "demo-day-checklist", "architecture-decisions",
    "status",
}  # fmt: skip
FOOTNOTE = re.compile(r"^\[\^(\d+)\]: `([^`]+)`(?: = (`+) ?(.*?) ?\3)?, line (\d+) of `([^`]+)`, ", re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with real runs: of the demo day, a scenario, a benchmark and a recovery."""
    folder = tmp_path_factory.mktemp("home")
    for journal in JOURNALS.glob("*.jsonl"):
        run = json.loads(journal.read_text().splitlines()[0])["run"]
        (folder / "runs" / run).mkdir(parents=True)
        shutil.copy(journal, folder / "runs" / run / "journal.jsonl")
    return folder


@pytest.fixture(scope="module")
def ask(home):
    """Makes what a template may ask."""
    files = [*(ROOT / "runbooks" / "recovery").glob("api-*.yaml"), *(ROOT / "runbooks" / "benchmarks").glob("a*.yaml")]
    runbooks = [load_runbook(file, Catalogue()) for file in sorted(files)]
    return partial(lambda history, notes: Sources(history, home / "runs", runbooks, notes, ""), History(home))


def line_of(home, run, number):
    return json.loads((home / "runs" / run / "journal.jsonl").read_text().splitlines()[number - 1])


def follow(value, field):
    """Walk to a place in a journal line, by a way of its own."""
    for key in field.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def test_every_kind_has_its_template():
    assert set(TEMPLATES) == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_number_of_a_document_resolves_to_a_journal_line(kind, home, ask):
    text = make(TEMPLATES[kind], ask, max_age="100000h").text
    notes = {}
    for number, field, _, _, line, run in FOOTNOTE.findall(text):
        notes[number] = follow(line_of(home, run, int(line)), field)
    body = text.partition("\n[^1]:")[0]
    assert len(notes) == len(re.findall(r"^\[\^", text, re.MULTILINE))
    numbers = 0
    for line in body.splitlines():
        told = {word for mark in re.findall(r"\[\^(\d+)\]", line) for word in words(notes[mark])}
        for found in re.findall(r"(?<![\w.])\d[\d,.:]*", re.sub(r"\[\^\d+\]", " ", line).replace("\\", "")):
            numbers += 1
            assert found.rstrip(".,:") in told, (line, found)
    assert numbers


def words(raw):
    """Each number that the value of a journal line may read as, in one form or another."""
    forms = {"text", "moment"} if isinstance(raw, str) else FORMS.keys() - {"moment"}
    said = " ".join(FORMS[form](raw) for form in forms if form != "moment" or re.match(r"\d{4}-\d\d-", raw))
    return {found.rstrip(".,:") for found in re.findall(r"\d[\d,.:]*", said)}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_value_for_programs_is_that_of_its_journal_line(kind, home, ask):
    quotes = make(TEMPLATES[kind], ask, max_age="100000h").quotes
    assert quotes
    for quote in quotes:
        assert follow(line_of(home, quote.run, quote.seq), quote.field) == quote.raw
        assert FORMS[quote.form](quote.raw) == quote.shown


def test_documents_of_a_measured_run_leave_nothing_open(ask):
    for kind in KINDS - {"contingency-plan"}:  # of which one recovery was never run
        assert make(TEMPLATES[kind], ask, max_age="100000h").problems == [], kind


def test_a_recovery_that_was_never_run_has_no_time(ask):
    document = make(TEMPLATES["contingency-plan"], ask)
    assert "*not measured*" in document.text
    assert any("no run has measured it" in problem for problem in document.problems)


def test_a_recovery_has_the_time_of_its_clock_beside_what_was_promised(ask):
    plan, page = (
        re.sub(r"\[\^\d+\]", "", make(TEMPLATES[kind], ask, max_age="100000h").text)
        for kind in ("contingency-plan", "quick-reference")
    )
    assert "passed, recovered in 8s, total 16s; promised: 1m.\n\n- " in plan
    assert "| `api-down` | 1m | 8s |" in page


def test_the_quick_reference_is_one_page_with_nine_answers(ask):
    text = make(TEMPLATES["quick-reference"], ask).text
    assert len(text.splitlines()) <= 200
    assert len(re.findall(r"^\*\*.*\?\*\*", text, re.MULTILINE)) == 9


def template(folder, body, heading="file: a.md"):
    path = folder / "own.md.j2"
    path.write_text(f"---\n{heading}\n---\n{body}\n")
    return path


def test_a_number_typed_into_a_template_is_found_out(tmp_path, ask):
    document = make(template(tmp_path, "Fast: 412 ms, p99, C15, K2.\n{{ figure('p50_ms', 'ms') }} of 7"), ask)
    problems = [problem for problem in document.problems if "evidence" in problem]
    assert problems == ["line 1: 412 has no evidence", "line 2: 7 has no evidence"]


def test_an_old_number_is_marked_stale():
    now = datetime.now(UTC)
    old = Quote(shown="5 ms", raw=5, run="r", seq=3, field="x", at=(now - timedelta(days=3)).isoformat(), form="ms")
    assert Footnotes(24 * 3600, now).cite(old) == "5 ms *(stale)*[^1]"
    fresh = Footnotes(7 * 24 * 3600, now)
    assert fresh.cite(old) == "5 ms[^1]"
    assert not fresh.problems


def test_a_figure_that_no_run_has_is_not_measured(tmp_path, ask):
    document = make(template(tmp_path, "{{ figure('nothing', 'ms') }}"), ask)
    assert document.text.startswith("*not measured*")
    assert document.problems == ["nothing: no run has measured it"]


@pytest.mark.parametrize("body", ["{{ unknown }}", "{% if %}", "{{ figure() }}", "{{ figure('p50_ms', 'furlongs') }}"])
def test_a_template_that_is_wrong_says_so(tmp_path, ask, body):
    with pytest.raises(UsageError, match=r"own\.md\.j2"):
        make(template(tmp_path, body), ask)
    with pytest.raises(UsageError):
        make(template(tmp_path, "x", heading="lenghts: 3"), ask)


def test_the_users_template_comes_before_the_one_that_ships(tmp_path):
    mine = tmp_path / "status.md.j2"
    mine.write_text("---\nfile: s.md\n---\n")
    assert templates([tmp_path, ROOT / "runbooks" / "documents"])["status"] == mine
