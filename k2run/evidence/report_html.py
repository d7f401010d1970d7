"""report.html: one page that needs nothing but itself. No script, no font, no picture from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2run.evidence.html.element import Html, tag
from k2run.evidence.html.measurements import measurements
from k2run.evidence.html.record import environment, journal, people, remarks, steps, undos
from k2run.evidence.html.summary import AGAINST_LAST, header, last_time, objectives, score, verdict_box, went_wrong
from k2run.evidence.html.timeline import timeline
from k2run.evidence.verdict import open_ended, verdict

if TYPE_CHECKING:
    from k2run.evidence.view import RunView

STYLE = Path(__file__).parent / "html" / "report.css"
_PARTS = {
    "Score": score,
    "Objectives": objectives,
    "What went wrong": went_wrong,
    "Timeline": timeline,
    "Measurements": measurements,
    "Steps": steps,
    "Faults and undos": undos,
    "Operators": people,
    "Remarks": remarks,
    "Environment": environment,
    "Journal": journal,
}
_ANCHORS = {AGAINST_LAST: "last-time", "What went wrong": "wrong", "Faults and undos": "undos"}


def report_html(view: RunView, last: RunView | None = None) -> str:
    """The report of a run, finished or broken off.

    Args:
        view: The run.
        last: The rehearsal before it, for a rehearsal.
    """
    made = {name: part for name, part in ((name, make(view)) for name, make in _PARTS.items()) if part}
    if last is not None:
        made = {AGAINST_LAST: last_time(view, last), **made}
    links = [tag("a", name, href=f"#{_ANCHORS.get(name, name.lower())}") for name in made]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", _title(view)),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    whole = (
        f'<!doctype html>\n<html lang="en">{head}<body>{header(view)}<main>{verdict_box(view)}',
        tag("nav", *links, aria_label="On this page"),
        *made.values(),  # put together once: copying a large page at every level costs more than making it
        f"</main>{tag('footer', _foot(view))}</body></html>\n",
    )
    return "".join(whole)


def _title(view: RunView) -> str:
    name = view.started.title or view.started.name if view.started is not None else "k2run"
    word, _ = verdict(view, view.finished) if view.finished is not None else open_ended(view)
    return f"{word}: {name}"


def _foot(view: RunView) -> str:
    version = view.started.versions.get("k2run", "") if view.started is not None else ""
    return f"Made by k2run {version} from journal.jsonl; every figure names the line it comes from.".replace("  ", " ")
