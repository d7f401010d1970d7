"""What a demo shows: plots and tables of its notebook, slides for a projector, the walkthrough as scenes of a film."""

from __future__ import annotations

import json
import re
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.action import Effect, Result, action
from k2run.bench.latency import figure
from k2run.errors import Refused, Unknown
from k2run.evidence.html import Form, Html, over_time, tag
from k2run.evidence.measurements import Series
from k2run.evidence.wording import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from k2run.evidence.step_view import SectionView
    from k2run.evidence.view import RunView
    from k2run.language.model import Runbook, Section

STYLE = Path(__file__).parent / "far.css"
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_NO_ID = re.compile(r"[^0-9a-z]+")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_HTML, _SVG, _PLAIN = "text/html", "image/svg+xml", "text/plain"
STYLE_OF_PLOTS = (
    "\n".join(
        line
        for line in STYLE.read_text(encoding="utf-8").splitlines()
        if line.startswith((".chart", ".plots", "figure"))
    )
    .replace("var(--live)", "#2f7de1")
    .replace("var(--line)", "#d5d9e0")
    .replace("var(--quiet)", "#525a67")
)

NOTE = "manual.note"
REPLAY_S = 2.0
"""Seconds of a run between two pictures of its replay; each is shown for so long."""
LEAST_S = 8.0
"""Seconds that a talking point is shown at least: it is read aloud."""


class Drawn:
    """HTML that a notebook shows as the value of a cell.

    Args:
        made: The HTML.
        says: The same in words, for readers that show text alone.
    """

    def __init__(self, made: Html, says: str) -> None:
        self.html = made
        self._says = says

    def __repr__(self) -> str:
        return self._says

    def _repr_html_(self) -> str:
        return self.html


def plot(title: str, points: Sequence[tuple[float, float]], *, unit: str = "", levels: Sequence[str] = ()) -> Drawn:
    """A value over time.

    Args:
        title: What it is.
        points: Seconds, and the value.
        unit: What stands behind the newest value.
        levels: The names of the values 0, 1, 2, … of a level.

    Raises:
        ValueError: There is nothing to plot: nothing measured is not zero.
    """
    if not points:
        raise ValueError(f"{title}: nothing was measured")
    series = Series(title=title, unit=unit, points=list(points), count=len(points), most=max(v for _, v in points))
    svg = over_time(series, [], form=Form(far=4, levels=tuple(levels)))
    latest = levels[int(series.latest)] if levels else f"{figure(series.latest)} {unit}".strip()
    caption = tag("figcaption", title, tag("strong", latest))
    return Drawn(tag("figure", caption, svg), f"{title}: {latest}, {len(points)} points")


def plots(*drawn: Drawn) -> Drawn:
    """Plots side by side, two in a row, with their style."""
    style = tag("style", Html(STYLE_OF_PLOTS))
    return Drawn(tag("div", style, *(each.html for each in drawn), class_="plots"), "; ".join(map(repr, drawn)))


def table(rows: Sequence[Mapping[str, Any]]) -> Drawn:
    """Rows as a table, with the keys of the first one as its head; numbers stand at the right.

    Raises:
        ValueError: There are no rows: an empty answer is not a result.
    """
    if not rows:
        raise ValueError("no rows")
    heads = list(rows[0])
    numeric = {head for head in heads if all(isinstance(row[head], int | float) for row in rows)}
    kind = {head: "number" if head in numeric else None for head in heads}
    top = tag("tr", *(tag("th", head, class_=kind[head]) for head in heads))
    places = {head: _places([row[head] for row in rows]) for head in numeric}
    shown = [{head: _shown(row[head], places.get(head, 0)) for head in heads} for row in rows]
    body = [tag("tr", *(tag("td", row[head], class_=kind[head]) for head in heads)) for row in shown]
    text = "\n".join("  ".join(row.values()) for row in shown)
    return Drawn(tag("table", tag("thead", top), tag("tbody", *body)), text)


def _places(column: Sequence[float]) -> int:
    """Decimal places of all values of a column: two, and four digits of its largest value where that is small."""
    if all(isinstance(value, int) for value in column):
        return 0
    most = max(abs(value) for value in column)
    return max(2, 3 - floor(log10(most))) if most else 2


def _shown(value: Any, places: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.{places}f}"


def pages_of(notebook: Mapping[str, Any]) -> str:
    """An executed notebook as pages for a projector: one for each heading `## …`, code left out.

    `page.html#1-architecture` shows that page alone; without `#…`, they stand below each other.

    Args:
        notebook: As nbformat 4 has it.
    """
    parts: list[tuple[str, list[Html]]] = [("", [])]
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = HEADING.search(source)
            if heading is not None:
                parts.append((slug(heading[1]), []))
            parts[-1][1].append(Html(_markdown(source)))
        elif cell["cell_type"] == "code":
            parts[-1][1].extend(made for output in cell.get("outputs", ()) if (made := _output(output)))
    first, *others = parts
    sections = [tag("section", *made, id=name) for name, made in others]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", "Notebook"),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    body = tag("body", tag("main", *first[1], *sections))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def slug(title: str) -> str:
    """The id of the page of a heading: `7-scaling-and-cost`."""
    return _NO_ID.sub("-", title.lower()).strip("-")


def _markdown(text: str) -> str:
    from markdown_it import MarkdownIt

    made: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return made


def _output(output: Mapping[str, Any]) -> Html | None:
    """What a cell shows: HTML and pictures of our own kernel as they are, all else as text."""
    if output["output_type"] == "stream":
        return tag("pre", _plain(output["text"])) if output.get("name") == "stdout" else None
    if output["output_type"] == "error":
        return tag("pre", f"{output['ename']}: {output['evalue']}")
    data = output.get("data", {})
    for kind in (_HTML, _SVG):
        if kind in data:
            return Html("".join(data[kind]))
    return tag("pre", _plain(data[_PLAIN])) if _PLAIN in data else None


def _plain(text: str | Iterable[str]) -> str:
    return _ANSI.sub("", "".join(text)).rstrip()


class Pages(Result, frozen=True, kw_only=True):
    """The pages of a notebook.

    Attributes:
        url: Where a browser finds them.
        pages: What stands behind `#` in the address of each.
    """

    path: str
    url: str
    pages: list[str]

    def headline(self) -> str:
        """Such as `7 pages`."""
        return f"{len(self.pages)} pages"


@action("notebook.pages", effect=Effect.CHANGES)
def pages(path: str, file: str) -> Pages:
    """Write an executed notebook as an HTML file for a projector: one page for each heading `## …`, code left out.

    Args:
        path: The executed notebook.
        file: The HTML file to write.
    """
    place, target = Path(path).expanduser().absolute(), Path(file).expanduser().absolute()
    try:
        notebook = json.loads(place.read_text(encoding="utf-8"))
        text = pages_of(notebook)
        sources = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
        titles = [slug(found[1]) for source in sources for found in HEADING.finditer(source)]
    except FileNotFoundError:
        raise Unknown(f"there is no notebook {place}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{place} is not a notebook: {error}") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{target} cannot be written: {error.strerror}") from error
    return Pages(path=str(target), url=target.as_uri(), pages=titles, source=str(place))


class Scene(Struct, frozen=True, kw_only=True):
    """One picture of the film; see `browser.film`."""

    chapter: str
    url: str
    seconds: float
    caption: str
    note: str


class Sources(Struct, frozen=True, kw_only=True):
    """Where the pictures come from.

    Attributes:
        page: Address of k2run's own page.
        notebook: Address of the executed notebook's pages.
        titles: The headings of its pages.
        run: Name of the run that is replayed; empty without one.
        now: When the rest was photographed, for people.
    """

    page: str
    stack: str
    notebook: str
    titles: list[str]
    run: str
    view: RunView | None
    now: str


def scenes(rehearsal: Runbook, sources: Sources) -> list[Scene]:
    """The scenes of all sections that have talking points, in their order.

    A section says by `vars: {shows: …}` what is shown: `notebook` (its page with the section's number), `stack` (all
    of it) or `stack 2,3` (charts), `charts WORD` (what the run measured), `run SECTION` (a section of the run, replayed
    at its own pace).
    """
    return [scene for section in rehearsal.sections for scene in _of_section(section, sources)]


def talking_points(section: Section) -> list[str]:
    """What is said in a section."""
    points: list[str] = []
    for step in section.steps:
        if step.action == NOTE and isinstance(step.loop, tuple | list):
            points += [str(item) for item in step.loop]
    return points


def _of_section(section: Section, sources: Sources) -> Iterator[Scene]:
    points, shows = talking_points(section), [str(each) for each in section.vars.get("shows", ())]
    if not points or not shows:
        return
    replayed = [found for each in shows if (found := _replayed(each, sources))]
    if replayed:
        yield from _replay(section, points, replayed[0], sources)
        return
    seconds = max(LEAST_S, (section.within or LEAST_S * len(points)) / len(points))
    for number, point in enumerate(points):
        url, note = _shown_of(shows[number * len(shows) // len(points)], section, sources)
        yield Scene(chapter=section.name, url=url, seconds=seconds, caption=point, note=note)


def _shown_of(show: str, section: Section, sources: Sources) -> tuple[str, str]:
    kind, _, which = show.partition(" ")
    if kind == "notebook":
        number = section.name.partition(" ")[0]
        title = next((each for each in sources.titles if each.startswith(f"{number}.")), "")
        return f"{sources.notebook}#{slug(title)}", f"notebook, executed {sources.now}"
    if kind == "charts" and sources.run:
        return f"{sources.page}/runs/{sources.run}/charts?far&show={which}", _of_run(sources)
    show = f"&show={which}" if kind == "stack" and which else ""
    return f"{sources.page}/stacks/{sources.stack}?far{show}", f"live, {sources.now}"


def _of_run(sources: Sources) -> str:
    begun = sources.view.started if sources.view is not None else None
    return f"{begun.title or begun.name}, run of {moment(begun.at)}" if begun is not None else ""


def _replayed(show: str, sources: Sources) -> SectionView | None:
    kind, _, name = show.partition(" ")
    if kind != "run" or sources.view is None:
        return None
    found = (each for each in sources.view.sections.values() if each.name == name)
    return next((each for each in found if each.started and each.finished), None)


def _replay(section: Section, points: Sequence[str], replayed: SectionView, sources: Sources) -> Iterator[Scene]:
    """A section of the run as the presenter saw it, no faster and no slower."""
    assert replayed.started is not None and replayed.finished is not None  # noqa: S101, PT018 - as it was chosen
    begun, ended = replayed.started.t, replayed.finished.t
    count = max(len(points), int((ended - begun) / REPLAY_S) + 1)
    step = (ended - begun) / count
    for number in range(count):
        yield Scene(
            chapter=section.name,
            url=f"{sources.page}/runs/{sources.run}/replay?at={begun + step * (number + 1):.2f}",
            seconds=step,
            caption=points[number * len(points) // count],
            note=f"replay at its own pace: {_of_run(sources)}",
        )
