"""What `k2run backup` prepares before its runbook runs: k2run's own page, and the scenes of the walkthrough."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from k2run.actions.person import open_on_desktop
from k2run.engine.events import RunStarted
from k2run.errors import K2runError, OperatorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store
    from k2run.evidence.view import RunView
    from k2run.language.model import Runbook

SCENES = "walkthrough.json"
SLIDES = "demo-slides.html"
RESILIENCE = "Resilience"
"""The section whose middle is photographed."""
_GRACE_S = 5


@contextmanager
def served() -> Iterator[str]:
    """k2run's own page on a free port, for as long as the block lasts; gives its address.

    It ends with this process however that ends, also with kill -9: a pipe between the two is closed then.

    Raises:
        OperatorError: It does not start.
    """
    command = [sys.executable, "-m", "k2run", "serve", "--port", "0", "--until-eof"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    try:
        said = process.stdout.readline() if process.stdout is not None else ""
        if not said.startswith("serving"):
            raise OperatorError(f"k2run's page does not start: {said.strip()}", hint="`k2run serve` says more")
        yield said.split()[1].rstrip("/")
    finally:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class PresenterOpener:
    """Opens the presenter's view as soon as a run has an id.

    Args:
        page: Address of k2run's page.
        on_desktop: Open it on the desktop; its address is told in any case.
    """

    def __init__(self, page: str, *, on_desktop: bool) -> None:
        self._page = page
        self._on_desktop = on_desktop

    def see(self, event: AnyEvent) -> None:
        """Wait for the start of the run."""
        if not isinstance(event, RunStarted):
            return
        address = f"{self._page}/runs/{event.run}/presenter"
        print(f"presenter's view  {address}", file=sys.stderr, flush=True)
        if self._on_desktop:
            open_on_desktop(address)


def last_run(store: Store, name: str, stack: str) -> tuple[str, RunView | None]:
    """The newest whole run of a runbook, preferably one whose resilience passed; nothing without one."""
    from k2run.engine.journal import read_journal
    from k2run.evidence.history import History
    from k2run.evidence.view import view_of

    newest: tuple[str, RunView | None] = ("", None)
    for run in reversed(History(store.home).runs(name=name, stack=stack, last=20)):
        try:
            view = view_of(read_journal(store.home / "runs" / run.run))
        except K2runError:
            continue
        if view.finished is None or view.finished.partial:
            continue
        newest = newest if newest[0] else (run.run, view)
        if any(each.name == RESILIENCE and _passed(each) for each in view.sections.values()):
            return run.run, view
    return newest


def _passed(section: object) -> bool:
    finished = getattr(section, "finished", None)
    return finished is not None and finished.outcome == "passed"


def middle(view: RunView | None) -> float:
    """Seconds into a run at which it is in the middle of its resilience; its end without that section."""
    if view is None:
        return 0.0
    for section in view.sections.values():
        if section.name == RESILIENCE and section.started and section.finished:
            return round(section.started.t + 0.75 * (section.finished.t - section.started.t), 2)
    return view.seconds


def write_scenes(rehearsal: Runbook, into: Path, page: str, stack: str, shown: tuple[str, RunView | None]) -> None:
    """Write the scenes of the video.

    Raises:
        OperatorError: They cannot be written.
    """
    from k2run.evidence.notebook_pages import scenes

    run, view = shown
    sources = Sources(
        page=page,
        stack=stack,
        notebook=(into / SLIDES).absolute().as_uri(),
        titles=_titles(rehearsal),
        run=run,
        view=view,
        now=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
    try:
        into.mkdir(parents=True, exist_ok=True)
        (into / SCENES).write_bytes(msgspec.json.format(msgspec.json.encode(scenes(rehearsal, sources))) + b"\n")
    except OSError as error:
        raise OperatorError(f"cannot write {into / SCENES}: {error.strerror}", hint="choose `--into`") from error


def _titles(rehearsal: Runbook) -> list[str]:
    """The headings of the notebook's pages: `## 3. Storage` is that of the section `3 Storage`."""
    return [each.name.replace(" ", ". ", 1) for each in rehearsal.sections if each.name[:1].isdecimal()]
