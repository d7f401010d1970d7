"""The part of the page that sets a rehearsal against the one before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.evidence.html.element import NOTHING, Html, row, table, tag
from k2run.evidence.rehearsed import against_last, attendance, wished
from k2run.evidence.wording import moment

if TYPE_CHECKING:
    from k2run.evidence.view import RunView

TITLE = "Against the last rehearsal"
HEADS = ("What", "This time", "Last time", "Difference")


def last_time(view: RunView, last: RunView | None) -> Html:
    """How this rehearsal stands against the last one; nothing without one."""
    if last is None or last.started is None:
        return NOTHING
    rows = [
        row(HEADS, (each.name, each.other or "not there", each.one or "not there", each.says), number_of_head=0)
        for each in against_last(view, last)
    ]
    remark = attendance(view, last)
    wishes = wished(last)
    return tag(
        "section",
        tag("h2", TITLE),
        tag("p", "The last one was ", tag("code", last.started.run), f", {moment(last.started.at)}.", class_="quiet"),
        tag("p", remark) if remark else None,
        table("Times of the sections, this time and the last time", HEADS, rows, class_="cards"),
        tag("p", "What was to be changed: ", tag("strong", "; ".join(wishes))) if wishes else None,
        id="last-time",
    )
