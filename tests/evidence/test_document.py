"""Documents: every number is followed to the journal line or the declaration that its footnote names."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.cli.program import TASKS
from k2run.errors import UsageError
from k2run.evidence.document_sources import Sources
from k2run.evidence.history import History
from k2run.evidence.quoted_document import FORMS, OF_TEXTS, Declared, Footnotes, Quote, make, printed, templates
from k2run.language.loader import load_runbook
from k2run.stack.stack import load_stack

ROOT = Path(__file__).parents[2]
JOURNALS = Path(__file__).parent / "journals"
TEMPLATES = templates([ROOT / "runbooks" / "documents"])
KINDS = {
    "quick-reference", "performance-results", "contingency-plan", "demo-day-checklist", "architecture-decisions",
    "status",
}  # fmt: skip
MEASURED = re.compile(
    r"^\[\^(\d+)\]: `([^`]+)`(?: = (`+) ?.*? ?\3)?, line (\d+) of `([^`]+)` on `([^`]+)`"
    r"(?:, which did not pass)?(?:, step [\w/]+)?, (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC)$"
)
DECLARED = re.compile(r"^\[\^(\d+)\]: `([^`]+)`(?: = (`+) ?.*? ?\3)?, declared by the (\w+ runbook|stack) `([^`]+)`$")
NUMBER = re.compile(r"(?<![\w.])(?<!T\u2212)\d[\d,.:]*")
AGES = "100000h"
"""The journals of these tests are as old as they are."""


def line(event):
    """An event as a journal has it."""
    return json.dumps(event, separators=(",", ":"))


def put(folder, lines):
    """Add a run to a home, from the lines of its journal."""
    run = json.loads(lines[0])["run"]
    (folder / "runs" / run).mkdir(parents=True)
    (folder / "runs" / run / "journal.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def home(tmp_path):
    """A home with real runs: of the demo day, a scenario, a benchmark and a recovery."""
    for journal in JOURNALS.glob("*.jsonl"):
        put(tmp_path, journal.read_text().splitlines())
    return tmp_path


@pytest.fixture(scope="session")
def runbooks():
    files = (ROOT / "runbooks").rglob("*.yaml")
    return [load_runbook(file, Catalogue()) for file in sorted(files) if "stacks" not in file.parts]


@pytest.fixture
def stack(tmp_path):
    return load_stack(str(ROOT / "runbooks" / "stacks" / "sandbox.yaml"), near=None, home=tmp_path, overrides={})


@pytest.fixture
def ask(home, runbooks, stack):
    """Makes what a template may ask."""
    return sources(home, runbooks, stack)


def sources(home, runbooks, stack):
    return partial(lambda history, notes: Sources(history, home / "runs", runbooks, notes, stack), History(home))


def written(kind, ask):
    return make(TEMPLATES[kind], ask, max_age=AGES, stack="sandbox")


def line_of(home, run, number):
    return json.loads((home / "runs" / run / "journal.jsonl").read_text().splitlines()[number - 1])


def follow(value, field):
    """Walk to a place in a journal line, a runbook or a stack, by a way of its own."""
    for key in field.split("."):
        value = value[int(key)] if isinstance(value, (list, tuple)) else value[key]
    return value


def declaration(kind, name, field, runbooks, stack):
    if kind == "stack":
        assert name == stack.name
        at, service, key = field.split(".", 2)
        assert at == "services"
        found = getattr(stack.services[service], key)
        return f"127.0.0.1:{found[0]}" if key == "ports" else found
    runbook = next(each for each in runbooks if (f"{each.kind.value} runbook", each.name) == (kind, name))
    sections = [
        {"within": each.within, "steps": [{"within": step.within} for step in each.steps]} for each in runbook.sections
    ]
    objective = {"within": runbook.objective.within, "rto": runbook.objective.rto}
    return float(follow({"objective": objective, "sections": sections}, field))


def test_every_kind_has_its_template():
    assert set(TEMPLATES) == KINDS


def after_nothing(home):
    """Only the runs of `home`."""


def after_a_drill(home):
    """A recovery of a drill ran last, with figures of the same names as those of the demo day."""
    put(home, other("api-down", "20261122-000000-api-down-4f00d", ('"doubled":0', '"doubled":7')))


def after_a_foreign_run(home):
    """A demo day on another stack ran last, and another runbook has figures of the same names."""
    put(home, other("measured", "20261125-101448-demo-day-f0e1", ('"stack":"sandbox"', '"stack":"compose"')))


def after_a_run_that_failed(home):
    """The last demo day failed where it drained the backlog: what comes after that was not reached."""
    lines = other("measured", "20261125-101448-demo-day-fa11")
    events = [json.loads(each) for each in lines]
    at = next(number for number, each in enumerate(events) if each.get("name") == "The backlog is drained")
    section = events[at]["section"]
    for each in events[at:]:
        if each["event"] in {"step_finished", "section_finished"} and each["section"] == section:
            each["outcome"] = "failed" if each["event"] == "section_finished" or each is events[at + 1] else "skipped"
            each["figures"] = {}
    events[-1] |= {"outcome": "failed", "verdict": 'no-go: "The backlog is drained" failed', "exit_code": 1}
    put(home, [line(each) for each in events])


def other(journal, run, *changes):
    """The lines of a run that is another by its name and by these changes."""
    lines = (JOURNALS / f"{journal}.jsonl").read_text()
    for old, new in ((json.loads(lines.splitlines()[0])["run"], run), *changes):
        assert old in lines
        lines = lines.replace(old, new)
    return lines.splitlines()


SITUATIONS = (after_nothing, after_a_drill, after_a_foreign_run, after_a_run_that_failed)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_number_is_followed_to_the_journal_of_the_run_that_it_names(kind, situation, home, runbooks, stack):
    situation(home)
    document = written(kind, sources(home, runbooks, stack))
    check_numbers(document.text, home, runbooks, stack)
    check_sections(document, TEMPLATES[kind].read_text(), home)
    assert {quote.stack for quote in measured(document)} <= {"sandbox"}, "a run of another stack is not quoted"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_stale_or_foreign_is_marked_at_every_number_and_followed_too(kind, home, runbooks, stack):
    document = make(TEMPLATES[kind], sources(home, runbooks, stack), max_age="24h", stack="k2")
    check_numbers(document.text, home, runbooks, stack)
    check_sections(document, TEMPLATES[kind].read_text(), home)
    for number, quote in enumerate(document.quotes, start=1):
        if isinstance(quote, Quote):
            assert re.search(rf"†‡§?\[\^{number}\]", document.body), quote
    assert "† stale" in document.body
    assert "‡ measured on another stack than `k2`" in document.body


def check_sections(document, template, home):
    """Each figure is of the runbook and the section that the template names."""
    asked = re.findall(r"figure\('(\w+)', '[\w ]+', runbook='([\w-]+)', section='([^']+)'\)", template)
    asked += [
        (figure, {"storage": "storage", "scaling": "scaling"}[of], section)
        for of, figure, section in re.findall(r"(\w+)\.figure\('(\w+)', '[\w ]+', section='([^']+)'\)", template)
    ]
    asked += re.findall(r"last\('([\w-]+)'\)\.figure\('(\w+)', '[\w ]+', section='([^']+)'\)", template)
    for quote in measured(document):
        if quote.field.startswith("figures."):
            event = line_of(home, quote.run, quote.seq)
            begun = line_of(home, quote.run, 1)
            events = (home / "runs" / quote.run / "journal.jsonl").read_text().splitlines()
            named = {
                each["section"]: each["name"] for each in map(json.loads, events) if each["event"] == "section_started"
            }
            figure = quote.field.removeprefix("figures.")
            assert (figure, begun["name"], named[event["section"]]) in asked, quote


def check_numbers(text, home, runbooks, stack):
    """Each number is that of the line of the journal, or of the declaration, that its footnote names."""
    told = {}
    for note in re.findall(r"^\[\^\d+\]: .*$", text, re.MULTILINE):
        if measured := MEASURED.match(note):
            number, field, _, line, run, on, at = measured.groups()
            event = line_of(home, run, int(line))
            assert line_of(home, run, 1)["stack"] == on
            assert event["at"][:19].replace("T", " ") + " UTC" == at
            told[number] = follow(event, field)
        else:
            number, field, _, what, name = DECLARED.match(note).groups()
            told[number] = declaration(what, name, field, runbooks, stack)
    numbers = 0
    for line in re.sub(r"\n\*[†‡§] .*\*\n", "\n", text.partition("\n[^1]:")[0]).splitlines():
        known = {word for mark in re.findall(r"\[\^(\d+)\]", line) for word in words(told[mark])}
        for found in NUMBER.findall(re.sub(r"\[\^\d+\]", " ", line).replace("\\", "")):
            numbers += 1
            assert found.rstrip(".,:") in known, (line, found)
    assert numbers


def words(raw):
    """Each number that a value may read as, in one form or another."""
    forms = OF_TEXTS if isinstance(raw, str) else FORMS.keys() - OF_TEXTS
    said = " ".join(FORMS[form](raw) for form in forms if form != "moment" or re.match(r"\d{4}-\d\d-", raw))
    return {found.rstrip(".,:") for found in NUMBER.findall(said)}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_value_for_programs_is_that_of_its_source(kind, home, ask, runbooks, stack):
    quotes = written(kind, ask).quotes
    assert quotes
    for quote in quotes:
        assert FORMS[quote.form](quote.raw) == quote.shown
        if isinstance(quote, Declared):
            what, _, name = quote.source.rpartition(" ")
            assert declaration(what, name, quote.field, runbooks, stack) == quote.raw
        else:
            assert follow(line_of(home, quote.run, quote.seq), quote.field) == quote.raw


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_drill_that_ran_last_does_not_change_what_is_said_of_the_demo_day(kind, home, runbooks, stack):
    before = written(kind, sources(home, runbooks, stack))
    lines = (
        (JOURNALS / "api-down.jsonl")
        .read_text()
        .replace("20261121-191845-api-down-3be4b", "20261122-000000-api-down-4f00d")
    )
    assert '"doubled":0' in lines
    put(home, lines.replace('"doubled":0', '"doubled":7').splitlines())
    after = written(kind, sources(home, runbooks, stack))
    assert of_demo_day(before) == of_demo_day(after)
    assert not any(quote.raw == 7 and quote.field == "figures.doubled" for quote in measured(after))
    if kind in {"quick-reference", "contingency-plan", "status"}:  # these do speak of the recovery
        assert "20261122-000000-api-down-4f00d" in after.text


def measured(document):
    return [quote for quote in document.quotes if isinstance(quote, Quote)]


def of_demo_day(document):
    return [quote for quote in measured(document) if "-demo-day-" in quote.run]


def test_the_documents_of_a_demo_day_quote_that_run_alone(ask):
    for kind in ("architecture-decisions", "demo-day-checklist"):
        assert {quote.run for quote in measured(written(kind, ask))} == {"20261121-101448-demo-day-eb08"}, kind


def test_what_no_run_measured_says_so_and_names_the_command(ask):
    document = written("contingency-plan", ask)
    assert "| The broker does not answer | `broker-down` | 1m30s[^" in document.text
    assert re.search(r"`broker-down` \| 1m30s\[\^\d+\] \| \*not measured\* \|", document.text)
    assert "`k2run drill --every` measures\nwhat is *not measured*" in document.text
    assert re.search(r"`kafka-checkpoint` \| \S+ \| \*no drill\* \|", document.text)
    assert "broker-down: rto: no run has measured it; `k2run drill --every` does" in document.problems
    assert "*not measured* (`k2run backup`)" in document.text


def test_a_recovery_has_the_time_of_its_clock_beside_what_its_runbook_promises(ask):
    plan, page = (re.sub(r"\[\^\d+\]", "", written(kind, ask).text) for kind in ("contingency-plan", "quick-reference"))
    assert "promised 1m; last run: 8s." in plan
    assert "| The API does not answer | `api-down` | 1m | 8s |" in page


def test_a_recovery_that_failed_has_no_time(home, runbooks, stack):
    lines = (
        (JOURNALS / "api-down.jsonl")
        .read_text()
        .replace("20261121-191845-api-down-3be4b", "20261122-000000-api-down-4f00d")
    )
    ended = json.loads(lines.splitlines()[-1]) | {"outcome": "failed", "verdict": "failed", "exit_code": 1}
    put(home, [*lines.splitlines()[:-1], line(ended)])
    page = re.sub(r"\[\^\d+\]", "", written("quick-reference", sources(home, runbooks, stack)).text)
    assert "| The API does not answer | `api-down` | 1m | *failed* on 2026-11-21 19:18:46 UTC |" in page


def test_the_quick_reference_has_the_nine_questions_the_sections_the_addresses_and_every_service(ask, stack):
    text = written("quick-reference", ask).text
    asked = re.findall(r"^\*\*(.*\?)\*\*", text, re.MULTILINE)
    assert len(text.splitlines()) <= 200
    assert asked == [
        "Why not low latency?", "Why DuckDB, and not a cluster?", "What about schema evolution?",
        "What happens under overload?", "What does it cost?", "Can you travel in time?", "How does it scale?",
        "Why Kafka?", "Why Avro?",
    ]  # fmt: skip
    for title in (
        "Architecture",
        "Ingestion",
        "Storage",
        "Monitoring",
        "Resilience",
        "Hybrid query",
        "Scaling and cost",
    ):
        assert re.search(rf"^\| {title} \| \d", text, re.MULTILINE), title
    assert "| Query API | `http://127.0.0.1:18000/health`[^" in text
    for service, recovery in (("postgres", "catalog-database-down"), ("object-store", "object-store-down")):
        assert re.search(rf"{re.escape(stack.services[service].title)} `\S+`\[\^\d+\], `{recovery}`", text)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_without_a_run_a_document_claims_nothing(kind, tmp_path, runbooks, stack):
    document = written(kind, sources(tmp_path, runbooks, stack))
    assert measured(document) == []
    assert "*not measured*" in document.body
    assert not re.search(
        r"missed|not caught up|failed\b(?! it)|warning", document.body.partition("## Recovery objectives")[0]
    )


def test_a_step_that_was_not_judged_has_no_meaning_and_no_recommendation(home, runbooks, stack):
    lines = (JOURNALS / "measured.jsonl").read_text().replace("20261121-101448", "20261125-101448").splitlines()
    events = [json.loads(each) for each in lines]
    load = next(each for each in events if each["event"] == "step_finished" and each["name"].startswith("C15"))
    for outcome, said in (
        ("skipped", "| skipped | nothing: not judged | nothing: not judged |"),
        ("failed", "| warning |"),
    ):
        load["outcome"] = outcome
        folder = home / "runs" / events[0]["run"]
        shutil.rmtree(folder, ignore_errors=True)
        put(home, [line(each) for each in events])
        assert said in written("performance-results", sources(home, runbooks, stack)).body


def test_a_section_that_no_one_presented_is_not_confirmed(tmp_path, ask):
    document = make(template(tmp_path, "{{ last('demo-day').section('People') }}"), ask)
    assert document.text.startswith("*not confirmed*")
    assert document.problems == ["demo-day: section People: not confirmed"]


def test_runbooks_of_two_kinds_that_share_a_name_are_not_mistaken_for_each_other(home, runbooks, stack):
    names = [each.name for each in runbooks]
    assert names.count("api-failing") == 2, "a recovery and a scenario"
    lines = (
        (JOURNALS / "api-down.jsonl").read_text().replace("20261121-191845-api-down-3be4b", "20261122-0-api-failing-0")
    )
    put(
        home,
        lines.replace('"name":"api-down"', '"name":"api-failing"')
        .replace('"kind":"recovery"', '"kind":"scenario"')
        .splitlines(),
    )
    plan = written("contingency-plan", sources(home, runbooks, stack)).body
    assert re.search(r"`api-failing` \| 1m30s\[\^\d+\] \| \*not measured\* \|", plan)
    status = written("status", sources(home, runbooks, stack)).body
    assert re.search(r"`api-failing` \| scenario \| 2026-11-21", status)


def test_every_command_that_a_document_names_exists(ask, runbooks):
    known = {task.name for task in TASKS}
    for kind in sorted(KINDS):
        said = written(kind, ask).body
        assert set(re.findall(r"`k2run ([a-z-]+)", said)) <= known, kind
        assert set(re.findall(r"`k2run (?:run|recover) ([a-z][a-z-]*)", said)) <= {each.name for each in runbooks}, kind


def test_an_expectation_reads_as_a_target():
    target = FORMS["bounds"]
    assert (
        target("result.p99_ms is not none and result.p99_ms < 500 and result.errors == 0") == "p99 < 500 ms, no errors"
    )
    bound = "result.percentiles.p99.at_most_ms"
    assert target(f"{bound} is not none and {bound} < 500") == "p99 (its upper bound) < 500 ms"
    assert target("result.per_s > 10") == "more than 10/s"
    assert target("result.rss_mib < 2000") == "rss < 2000 MiB"
    assert target("result.total > 500000") == "total > 500,000"
    assert target("result.acked == backlog") == "acked = backlog"


def test_why_something_does_not_apply_is_told_once_and_without_the_words_of_a_runbook():
    said = (
        "C21 It fits: `made` has no value: it is registered by 'It is made', which does not apply: /a/b does not exist"
    )
    assert FORMS["words"](said) == "It fits: it needs “It is made”"
    assert FORMS["words"]("C15 Fast: expected result.p99_ms < 500; found result.p99_ms = 4657.151") == (
        "Fast: expected p99 < 500 ms; found p99 = 4657.151 ms"
    )


def test_what_must_not_be_said_is_in_words(ask):
    said = written("quick-reference", ask).text.partition("## What must not be said")[2].partition("\n[^1]:")[0]
    assert "The decisions can be defended" in said
    assert "Schema registry knows the trades" in said
    assert not re.search(r"\b[CS]\d+\b", said)
    assert FORMS["words"]("C27 Screenshot {{ shot }} is there in full size") == "Screenshot … is there in full size"
    assert FORMS["words"]("C14 /v1/symbols is not slow") == "/v1/symbols is not slow"
    assert FORMS["words"]("60 % of the points were judged") == "60 % of the points were judged"


def test_the_plan_says_what_to_show_and_to_say_before_it_repairs(ask):
    text = written("contingency-plan", ask).text
    plans = re.findall(r"^## (S\d) .*\n((?:.+\n|\n(?!##))*)", text, re.MULTILINE)
    assert [name for name, _ in plans] == [f"S{number}" for number in range(1, 9)]
    for name, body in plans:
        order = re.findall(r"^- \*\*(.+?):\*\*", body, re.MULTILINE)
        assert order == ["Symptom", "Show at once", "Say", "Then repair", "Time to recover"], name


def test_the_checklist_has_boxes_two_hours_before_and_then_half_an_hour_before(ask):
    first, _, second = written("demo-day-checklist", ask).text.partition("## T\u221230 min")
    assert "## T\u22122 h" in first
    assert min(first.count("\n- [ ] "), second.count("\n- [ ] ")) > 8


def test_the_status_has_the_score_over_time_newest_first(ask):
    table = written("status", ask).text.partition("## Score over time")[2].partition("##")[0]
    assert re.findall(r"^\| (2026-11-21 \d\d:\d\d)", table, re.MULTILINE) == ["2026-11-21 10:14", "2026-11-21 07:03"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pages"), [("quick-reference", 2), ("contingency-plan", 3)])
def test_a_document_fits_its_printed_pages_and_its_footnotes_one_more(kind, pages, ask, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    document = written(kind, ask)
    assert pages_of(chromium, printed(document.body, []), tmp_path) <= pages
    assert pages_of(chromium, document.html, tmp_path) <= pages + 1


def pages_of(chromium, html, folder):
    (folder / "a.html").write_text(html)
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-pdf-header-footer",
        f"--user-data-dir={folder}/c",
    ]
    subprocess.run(
        [*command, f"--print-to-pdf={folder}/a.pdf", str(folder / "a.html")],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return len(re.findall(rb"/Type\s*/Page\b", (folder / "a.pdf").read_bytes()))


def test_footnotes_have_a_page_of_their_own_where_the_number_of_pages_is_promised(ask):
    apart = {kind for kind in KINDS if '<footer class="apart">' in written(kind, ask).html}
    assert apart == {"quick-reference"}


def test_a_page_to_print_is_self_contained_and_its_footnotes_are_linked(ask):
    page = written("architecture-decisions", ask).html
    assert '<sup><a href="#note-1">1</a></sup>' in page
    assert '<li id="note-1">' in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    for link in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{link}"' in page


def test_every_box_of_a_checklist_can_be_ticked_on_the_page(ask):
    for kind in ("demo-day-checklist", "contingency-plan"):
        document = written(kind, ask)
        assert document.html.count('<li class="box">') == document.body.count("- [ ] ") > 0
        assert "[ ]" not in document.html


def test_what_a_system_answered_is_no_footnote_and_no_markup_on_a_page():
    page = printed("a \\[^1\\] \\<b\\>", ["[^1]: `x`"])
    assert "a [^1] &lt;b&gt;" in page


def template(folder, body, heading="file: a.md"):
    path = folder / "own.md.j2"
    path.write_text(f"---\n{heading}\n---\n{body}\n")
    return path


def test_a_number_typed_into_a_template_is_found_out(tmp_path, ask):
    figure = "{{ figure('p50_ms', 'ms', runbook='demo-day', section='Numbers') }}"
    said = f"Fast: 412 ms, p99, C15, K2, T\u22122 h.\n{figure} of 7"
    document = make(template(tmp_path, said), ask)
    problems = [problem for problem in document.problems if "evidence" in problem]
    assert problems == ["line 1: 412 has no evidence", "line 2: 7 has no evidence"]


def quote(**changes):
    now = datetime.now(UTC).isoformat()
    facts = {"shown": "5 ms", "raw": 5, "run": "r", "stack": "s", "seq": 3, "field": "x", "at": now, "form": "ms"}
    return Quote(**(facts | changes))


def test_an_old_number_is_marked_stale():
    old = quote(at=(datetime.now(UTC) - timedelta(days=3)).isoformat())
    notes = Footnotes(24 * 3600)
    assert notes.cite(old) == "5 ms†[^1]"
    assert notes.legend() == "† stale: measured more than 24h before this was written"
    assert Footnotes(7 * 24 * 3600).cite(old) == "5 ms[^1]"


def test_a_number_of_another_stack_is_marked():
    notes = Footnotes(24 * 3600, stack="sandbox")
    assert notes.cite(quote(stack="compose")) == "5 ms‡[^1]"
    assert notes.problems == ["what r measured is of the stack compose"]
    assert "on `compose`" in notes.written()[0]


def test_a_number_of_a_run_that_did_not_pass_is_marked_and_its_verdict_is_not():
    notes = Footnotes(24 * 3600)
    assert notes.cite(quote(passed=False)) == "5 ms§[^1]"
    assert notes.cite(quote(passed=False, shown="no-go", raw="no-go", form="text")) == "no-go[^2]"
    assert "which did not pass" in notes.written()[0]
    assert notes.legend() == "§ its run did not pass; the footnote names it"


def test_a_run_on_this_stack_comes_before_a_newer_one_on_another(home, runbooks, stack):
    lines = (JOURNALS / "measured.jsonl").read_text().replace("20261121-101448", "20261125-101448")
    put(home, lines.replace('"stack":"sandbox"', '"stack":"compose"', 1).splitlines())
    ask = sources(home, runbooks, stack)
    assert {each.stack for each in measured(written("demo-day-checklist", ask))} == {"sandbox"}
    other = make(TEMPLATES["demo-day-checklist"], ask, max_age=AGES, stack="k2")
    assert "‡ measured on another stack than `k2`" in other.text


def test_a_run_of_a_part_of_the_runbook_is_not_quoted(home, runbooks, stack):
    lines = (JOURNALS / "measured.jsonl").read_text().replace("20261121-101448", "20261125-101448").splitlines()
    put(home, [*lines[:-1], line(json.loads(lines[-1]) | {"partial": True})])
    assert "20261125-101448" not in written("status", sources(home, runbooks, stack)).text


def test_a_figure_that_no_run_has_is_not_measured(tmp_path, ask):
    document = make(template(tmp_path, "{{ figure('nothing', 'ms', runbook='demo-day', section='Numbers') }}"), ask)
    assert document.text.startswith("*not measured* (`k2run run demo-day`)")
    assert document.problems == ["demo-day: figure nothing: no run has measured it; `k2run run demo-day` does"]


def test_a_figure_is_of_its_section_alone(tmp_path, ask):
    document = make(template(tmp_path, "{{ figure('p50_ms', 'ms', runbook='demo-day', section='Resilience') }}"), ask)
    assert document.text.startswith("*not measured*")


def test_a_step_that_does_not_apply_is_not_one_that_was_not_measured(tmp_path, ask):
    body = "{{ last('demo-day').step('Schema registry knows the trades').value('elapsed_ms', 'ms') }}"
    document = make(template(tmp_path, body), ask)
    assert document.text.startswith("*not applicable here*")
    assert document.problems == []


def test_what_another_stack_does_not_have_is_not_measured_on_this_one(tmp_path, ask):
    body = "{{ last('demo-day').step('Schema registry knows the trades').value('elapsed_ms', 'ms') }}"
    document = make(template(tmp_path, body), ask, stack="compose")
    assert document.text.startswith("*not measured* (`k2run run demo-day`)")


def test_a_name_with_a_number_has_a_footnote_too(home, tmp_path, runbooks):
    (tmp_path / "own.yaml").write_text(
        "stack: 1\nname: own\nservices:\n  registry-2: {run: external, url: 'http://localhost:8082'}\n"
    )
    own = load_stack(str(tmp_path / "own.yaml"), near=None, home=home, overrides={})
    document = make(TEMPLATES["quick-reference"], sources(home, runbooks, own), max_age=AGES, stack="own")
    assert not [problem for problem in document.problems if "has no evidence" in problem]
    assert "`services.registry-2.name`, declared by the stack `own`" in document.text


def test_the_time_of_a_step_that_failed_is_no_time_of_what_it_waited_for(home, tmp_path, runbooks, stack):
    lines = (JOURNALS / "measured.jsonl").read_text().replace("20261121-101448", "20261125-101448").splitlines()
    events = [json.loads(line) for line in lines]
    drained = next(
        each for each in events if each["event"] == "step_finished" and each["name"] == "The backlog is drained"
    )
    drained["outcome"] = "failed"
    put(home, [line(each) for each in events])
    body = "{{ last('demo-day').step('The backlog is drained').seconds }}"
    assert make(template(tmp_path, body), sources(home, runbooks, stack)).text.startswith("*not measured*")


def test_a_figure_that_does_not_say_whose_it_is_is_refused(tmp_path, ask):
    with pytest.raises(UsageError, match="does not say whose") as refused:
        make(template(tmp_path, "{{ figure('p50_ms', 'ms') }}"), ask)
    assert "runbook=" in refused.value.hint


def test_a_step_that_several_sections_have_needs_its_section(home, tmp_path, runbooks, stack):
    put(home, twice())
    ask = sources(home, runbooks, stack)
    with pytest.raises(UsageError, match="is in several sections of twice"):
        make(template(tmp_path, "{{ last('twice').step('Same').seconds }}"), ask)
    body = "{{ last('twice').step('Same', section='sections[1]').seconds }}"
    assert make(template(tmp_path, body), ask, max_age=AGES).text.startswith("2s[^1]")


def twice():
    """A run in which two sections have a step of the same name."""
    started = {"event": "run_started", "run": "20261121-100000-twice-00000", "runbook": "t.yaml", "name": "twice"}
    step = {"event": "step_finished", "name": "Same", "action": "wait", "outcome": "passed"}
    events = [
        started | {"title": "", "kind": "readiness", "digest": "", "stack": "sandbox"},
        step | {"step": "sections[0].steps[0]", "section": "sections[0]", "seconds": 1.0},
        step | {"step": "sections[1].steps[0]", "section": "sections[1]", "seconds": 2.0},
        {"event": "run_finished", "outcome": "passed", "verdict": "passed", "exit_code": 0, "seconds": 2.0},
    ]
    at = {"at": "2026-11-21T10:00:00.000+00:00", "t": 1.0}
    return [line({"event": each["event"], "seq": seq} | at | each) for seq, each in enumerate(events, start=1)]


@pytest.mark.parametrize(
    "body",
    [
        "{{ unknown }}",
        "{% if %}",
        "{{ figure() }}",
        "{{ figure('p50_ms', 'furlongs', runbook='demo-day', section='Numbers') }}",
    ],
)
def test_a_template_that_is_wrong_says_so(tmp_path, ask, body):
    with pytest.raises(UsageError, match=r"own\.md\.j2"):
        make(template(tmp_path, body), ask)
    with pytest.raises(UsageError):
        make(template(tmp_path, "x", heading="lenghts: 3"), ask)


def test_the_users_template_comes_before_the_one_that_ships(tmp_path):
    mine = tmp_path / "status.md.j2"
    mine.write_text("---\nfile: s.md\n---\n")
    assert templates([tmp_path, ROOT / "runbooks" / "documents"])["status"] == mine
