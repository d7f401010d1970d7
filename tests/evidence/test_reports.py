import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2run.engine.events import (
    AnyEvent,
    Outcome,
    OutlineSection,
    OutlineStep,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
)
from k2run.engine.journal import JOURNAL
from k2run.errors import OperatorError, UsageError
from k2run.evidence.report_html import STYLE, report_html
from k2run.evidence.report_markdown import code, report_markdown, text
from k2run.evidence.reports import REPORTS, report_junit, write_reports
from k2run.evidence.view import view_of

TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section",
    "article", "h1", "h2", "h3", "p", "dl", "div", "dt", "dd", "ul", "ol", "li", "table", "caption", "thead",
    "tbody", "tfoot", "tr", "th", "td", "span", "strong", "code", "pre", "a", "br", "details", "summary",
    "svg", "rect", "line", "text", "path", "figure", "figcaption",
}  # fmt: skip


class Page(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.links, self.attributes, self.text = [], [], [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in {"href", "src"}]

    def handle_data(self, data):
        self.text.append(data)


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["good", "bad"])
def test_the_page_needs_nothing_but_itself(which, request):
    page = report_html(request.getfixturevalue(which))
    found = Page(page)
    assert set(found.tags) <= TAGS
    assert all(link.startswith("#") for link in found.links)
    assert not re.search(r"url\(|@import|https?://", page)


@pytest.mark.parametrize("which", ["good", "bad", "measured"])
def test_every_link_leads_to_a_line_of_the_journal_or_a_part_of_the_page(which, request):
    found = Page(report_html(request.getfixturevalue(which)))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_the_page_quotes_the_journal_lines_as_they_stand(good, demo_day):
    shown = "".join(Page(report_html(good)).text)
    line = msgspec.json.encode(next(event for event in demo_day if isinstance(event, StepFinished))).decode()
    assert line in shown


def test_the_verdict_comes_first(good):
    page = report_html(good)
    assert page.index(">GO<") < page.index('id="score"') < page.index('id="timeline"') < page.index('id="steps"')
    assert "<title>GO: Demo day" in page


def test_what_was_not_judged_is_said_and_never_counted(good):
    for report in (report_html(good), report_markdown(good)):
        assert "not judged" in report
        assert "81 %" in report
    assert "not measured" in report_markdown(good)


def test_what_is_still_broken_stands_beside_the_verdict(bad):
    assert report_html(bad).index("Still broken") < report_html(bad).index('id="objectives"')
    assert "**Still broken** (`k2run undo` puts it back): start consumer" in report_markdown(bad)


def test_a_run_that_was_killed_is_reported_as_not_finished(demo_day):
    for cut in range(len(demo_day)):
        view = view_of(demo_day[:cut])
        assert "NOT FINISHED" in report_html(view)
        assert "NOT FINISHED" in report_markdown(view)
        assert ET.fromstring(report_junit(view)).get("errors") != "0"


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast_for_everybody(scheme):
    palettes = re.findall(r":root \{(.*?--quiet-bar.*?)\}", STYLE.read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", palettes[scheme]))
    pairs = [("ink", "ground"), ("quiet", "ground"), ("quiet", "raised"), ("link", "ground"), ("ink", "raised")]
    pairs += [(tone, ground) for tone in ("good", "bad", "warn") for ground in (f"{tone}-ground", "ground")]
    pairs += [(one, f"{tone}-ground") for one in ("ink", "link") for tone in ("good", "bad", "warn")]
    for text_colour, ground in pairs:
        assert contrast(colours[text_colour], colours[ground]) >= 4.5, (text_colour, ground)
    for tone in ("good", "bad", "warn", "quiet"):
        assert contrast(colours[f"{tone}-bar"], colours["ground"]) >= 2.3, (
            f"{tone}: drawn bars also have a word beside them"
        )


def test_two_hundred_steps_stay_a_page_that_opens_at_once(demo_day):
    steps = [e for e in demo_day if isinstance(e, StepFinished)]
    many = [
        msgspec.structs.replace(steps[n % len(steps)], step=f"sections[0].steps[{n}]", seq=1000 + n) for n in range(200)
    ]
    assert len(report_html(view_of([*demo_day, *many]))) < 600_000


# --- hostile text -----------------------------------------------------------------------------------------------------

anything = st.text(st.characters(codec=None), max_size=40) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "|x|y|",
        "`` ` ``",
        "]]>",
        "\x1b[2J",
        "\ud800",
        "&lt;",
        "\\|",
        "</style>",
    ]
)


def run_that_says(words):
    step = {"step": "s.steps[0]", "section": "s", "name": words, "action": words}
    outline = OutlineSection(path="s", name=words, steps=[OutlineStep(path="s.steps[0]", name=words, action=words)])
    names = dict.fromkeys(["run", "runbook", "name", "title", "digest", "stack"], words)
    said = dict.fromkeys(["headline", "expected", "message", "hint", "recovery"], words)
    end = {"verdict": words, "reasons": [words], "pending_undos": [words], "seconds": 1.0}
    return [
        RunStarted(seq=1, kind="readiness", inputs={words: words}, versions={words: words}, outline=[outline], **names),
        StepStarted(seq=2, args={words: words}, **step),
        StepFinished(seq=3, outcome=Outcome.FAILED, seconds=1.0, within=0.5, **step, **said),
        RunFinished(seq=4, outcome=Outcome.FAILED, exit_code=1, **end),
    ]


@given(anything)
def test_whatever_a_system_answers_stays_text_in_every_report(words):
    clean_events = run_that_says(words.encode("utf-8", "replace").decode())
    view = view_of(clean_events)
    page = Page(report_html(view))
    assert set(page.tags) <= TAGS
    assert not any(name.startswith("on") for name in page.attributes)
    ET.fromstring(report_junit(view))
    rows = [line for line in report_markdown(view).splitlines() if line.startswith("| ✗ failed")]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0].replace("\\\\", ""))) == 8
    for report in (*REPORTS.values(), report_junit):
        report(view).encode()


def test_markdown_signs_are_taken_as_characters():
    assert text("a*b_c <b> [x](y) | #1") == r"a\*b\_c \<b\> \[x\](y) \| \#1"
    assert code("x `y` | z") == "`` x `y` \\| z ``"
    assert code("") == ""


# --- junit ------------------------------------------------------------------------------------------------------------


def test_what_does_not_fail_the_run_is_never_red(good):
    suites = ET.fromstring(report_junit(good))
    case = next(case for case in suites.iter("testcase") if case.get("name") == "Compression is at least 3 : 1")
    assert case.find("failure") is None
    assert case.find("skipped").get("message").startswith("warning: ")
    assert suites.get("failures") == "0"


def test_a_run_that_did_not_pass_is_red_whatever_its_steps_say(bad):
    suites = ET.fromstring(report_junit(bad))
    verdict = next(case for case in suites.iter("testcase") if case.get("name") == "verdict")
    assert verdict.find("failure") is not None
    undo = next(case for case in suites.iter("testcase") if case.get("name") == "start consumer")
    assert "port 19095" in undo.find("failure").get("message")


def test_the_totals_are_the_sums_of_the_cases(bad):
    suites = ET.fromstring(report_junit(bad))
    for kind, total in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert int(suites.get(total)) == len(list(suites.iter(kind)))
        assert int(suites.get(total)) == sum(int(suite.get(total)) for suite in suites)
    assert int(suites.get("tests")) == len(list(suites.iter("testcase")))


# --- files ------------------------------------------------------------------------------------------------------------


def write_journal(folder, events: list[AnyEvent]):
    (folder / JOURNAL).write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))


def test_reports_are_written_beside_the_journal_and_replace_older_ones(tmp_path, demo_day):
    write_journal(tmp_path, demo_day[:40])
    write_reports(tmp_path)
    write_journal(tmp_path, demo_day)
    paths = write_reports(tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.md"]
    assert all("NOT FINISHED" not in path.read_text() for path in paths)
    assert {path.name for path in tmp_path.iterdir()} == {JOURNAL, *REPORTS}
    assert write_reports(tmp_path, junit=True)[-1].name == "junit.xml"


def test_a_report_that_cannot_be_written_says_which_and_leaves_no_half_of_it(tmp_path, demo_day):
    write_journal(tmp_path, demo_day)
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OperatorError, match=r"report\.md cannot be written"):
        write_reports(tmp_path)
    assert not list(tmp_path.glob(".report*"))


def test_a_folder_without_a_journal_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        write_reports(tmp_path)


def test_a_section_that_expects_nothing_has_no_empty_column(api_load):
    page = report_html(view_of(api_load))
    before, load, _ = re.findall(r"<h3>.*?</table>", page.partition("<h2>Steps</h2>")[2], re.DOTALL)[:3]
    assert "Expected" in before
    assert "Expected" not in load
