"""The walkthrough of a demo as scenes of a film: what each section of a rehearsal says, and what is shown meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.evidence.notebook_pages import slug
from k2run.evidence.wording import moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.evidence.step_view import SectionView
    from k2run.evidence.view import RunView
    from k2run.language.model import Runbook, Section

NOTE = "manual.note"
REPLAY_S = 2.0
"""Seconds of a run between two pictures of its replay; each is shown for so long."""
LEAST_S = 8.0
"""Seconds that a talking point is shown at least: it is read aloud."""


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
        stack: Name of the stack.
        notebook: Address of the executed notebook's pages.
        titles: The headings of its pages.
        run: Name of the run that is replayed; empty without one.
        view: That run.
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
        url, note = _shown(shows[number * len(shows) // len(points)], section, sources)
        yield Scene(chapter=section.name, url=url, seconds=seconds, caption=point, note=note)


def _shown(show: str, section: Section, sources: Sources) -> tuple[str, str]:
    """Address and note of what is shown."""
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
