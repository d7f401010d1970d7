"""The templates with their filters, and the static files under an address that changes with them."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.responses import Response

from k2run.engine.events import Bound
from k2run.evidence.html.summary import TONES
from k2run.evidence.view import score_says
from k2run.evidence.wording import MARKS, NOT_DONE, Standing, against, count, moment, percent, points, span, standing
from k2run.web.tokens import Role

if TYPE_CHECKING:
    from jinja2 import Template
    from starlette.requests import Request

HERE = Path(__file__).parent
_LONGEST = 1500
_CLOSE = 0.8
"""Share of a budget after which its clock is highlighted."""


@cache
def environment() -> Environment:
    """The templates; whatever a system, a runbook or a person wrote is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(span=span, moment=moment, points=points, percent=percent, pretty=pretty, tone=tone)
    made.globals.update(
        against=against,
        clock=clock,
        count=count,
        MARKS=MARKS,
        Bound=Bound,
        NOT_DONE=NOT_DONE,
        Standing=Standing,
        Role=Role,
        score_says=score_says,
        standing=standing,
    )
    return made


@cache
def template(name: str) -> Template:
    """A template by its file."""
    return environment().get_template(name)


def draw(name: str, **values: Any) -> str:
    """A template, filled in."""
    return template(name).render(values)


def tone(stands: Standing) -> str:
    """The class of a standing in the style sheet."""
    return "live" if stands is Standing.RUNNING else TONES.get(stands, "quiet")


def pretty(value: Any) -> str:
    """A result as indented JSON, cut where it gets long."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\n…"


def clock(since: float, now: float, budget: float | None, *, live: bool) -> Markup:
    """A clock that the page's script lets run: seconds since a moment of the run, against a budget.

    Args:
        since: When it was started, in seconds since the run started.
        now: The moment that it shows until the script takes over.
        budget: Seconds that it should not pass.
        live: Whether it runs.
    """
    spent = max(0.0, now - since)
    late = " late" if budget and spent > budget else " close" if budget and spent > _CLOSE * budget else ""
    runs = Markup(' data-since="{}" data-budget="{}"').format(round(since, 3), budget or "") if live else ""
    of = Markup(' <span class="of">of {}</span>').format(span(budget)) if budget else ""
    return Markup('<span class="clock{}"><span class="hand"{}>{}</span>{}</span>').format(late, runs, span(spent), of)


TYPES = {"k2run.css": "text/css", "k2run.js": "text/javascript", "k2run.svg": "image/svg+xml"}
FILES = {name: (HERE / "static" / name).read_bytes() for name in TYPES}
VERSION = sha256(b"".join(FILES.values())).hexdigest()[:12]


async def static(request: Request) -> Response:
    """One of the files."""
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    return Response(
        FILES[name], media_type=TYPES[name], headers={"cache-control": "public, max-age=31536000, immutable"}
    )


async def icon(request: Request) -> Response:  # noqa: ARG001 - the form of an endpoint
    """What a browser asks for on a page that names no icon."""
    return Response(FILES["k2run.svg"], media_type=TYPES["k2run.svg"])
