"""Which runbook answers an incident, and on which stack."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from k2run.actions.catalogue import Catalogue
from k2run.app.diagnose import recovery_runbooks
from k2run.app.launch import DEFAULT_STACK, runbook_roots
from k2run.daemon.alerts.incident_events import Chosen
from k2run.errors import K2runError
from k2run.language.expressions import render
from k2run.language.model import Start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from k2run.daemon.alerts.incident import Incident
    from k2run.language.model import AlertRule, Runbook


class KnownRunbooks:
    """All recovery runbooks that can be found; they are read again only when a file has changed."""

    def __init__(self) -> None:
        self._marks: dict[Path, tuple[int, int]] | None = None
        self._found: list[Runbook] = []

    def all(self) -> list[Runbook]:
        """The runbooks as their files are now."""
        marks = {}
        for root in runbook_roots():
            for file in (root / "recovery").rglob("*.yaml"):
                with suppress(OSError):
                    seen = file.stat()
                    marks[file] = (seen.st_mtime_ns, seen.st_size)
        if marks != self._marks:
            self._found, self._marks = recovery_runbooks(Catalogue()), marks
        return self._found


def fits(rule: AlertRule, labels: Mapping[str, str]) -> bool:
    """Whether every label that a rule names is there and matches as a whole."""
    return all(name in labels and re.fullmatch(pattern, labels[name]) for name, pattern in rule.labels.items())


def choose(incident: Incident, runbooks: Sequence[Runbook], stack: str) -> Chosen:
    """The runbook for an incident.

    Among those whose `alerts` fit, one whose symptoms are present goes before others, then the one that names more
    labels; one about something that the stack has not is none of them. A failure that the diagnosis recognises goes
    before runbooks that only fit by their labels. Nothing is started without approval unless its symptoms are present
    and its own rule says so.

    Args:
        incident: The incident, diagnosed.
        runbooks: All recovery runbooks.
        stack: The stack of rules and runbooks that name none; where it is empty, nothing is started on its own.
    """
    diagnosed = incident.diagnosed
    matches, absent = (diagnosed.matches, diagnosed.absent) if diagnosed is not None else ([], [])
    fitting = [
        (runbook, rule, labels)
        for runbook in runbooks
        for rule in runbook.alerts
        for labels in _label_sets(incident)
        if fits(rule, labels)
    ]
    candidates = [found for found in fitting if found[0].name not in absent]
    named = next((runbook for name in matches for runbook in runbooks if runbook.name == name), None)
    best = min(candidates, key=lambda found: _rank(found[0], found[1], matches), default=None)
    if best is not None and (best[0].name in matches or named is None):
        return _chosen(incident, *best, stack, seen=best[0].name in matches)
    if named is not None:
        why = "its symptoms are present"
        return Chosen(runbook=named.name, path=named.path, stack=_own(named) or stack, seen=True, why=why)
    if fitting:
        names = ", ".join(dict.fromkeys(runbook.name for runbook, _, _ in fitting))
        return Chosen(why=f"{names}: not applicable on this stack; no failure was recognised")
    return Chosen(why="no runbook answers these alerts, and no failure was recognised")


def answers(incident: Incident, runbooks: Sequence[Runbook], name: str) -> bool:
    """Whether a runbook names an alert of the incident."""
    rules = (rule for runbook in runbooks if runbook.name == name for rule in runbook.alerts)
    return any(fits(rule, labels) for rule in rules for labels in _label_sets(incident))


def stack_of(incident: Incident, runbooks: Sequence[Runbook], stack: str) -> str:
    """The stack to look at: the one that a rule which fits names, else the given one."""
    rules = (rule for runbook in runbooks for rule in runbook.alerts if rule.stack)
    fitting = (rule.stack for rule in rules if any(fits(rule, labels) for labels in _label_sets(incident)))
    return next(fitting, stack)


def _label_sets(incident: Incident) -> list[dict[str, str]]:
    """The labels of each alert that fires; an alert has those of its group too."""
    return [{**incident.opened.labels, **alert.labels} for alert in incident.firing] or [incident.opened.labels]


def _own(runbook: Runbook) -> str:
    """The stack that a runbook names; empty for the embedded one, which is that of every runbook that names none."""
    return "" if runbook.stack == DEFAULT_STACK else runbook.stack


def _rank(runbook: Runbook, rule: AlertRule, matches: Sequence[str]) -> tuple[int, int, str]:
    place = matches.index(runbook.name) if runbook.name in matches else len(matches)
    return place, -len(rule.labels), runbook.name


def _chosen(  # noqa: PLR0913 - what a choice rests on
    incident: Incident, runbook: Runbook, rule: AlertRule, labels: dict[str, str], stack: str, *, seen: bool
) -> Chosen:
    why = "its alerts fit" + (", and its symptoms are present" if seen else "")
    stack = rule.stack or _own(runbook) or stack
    automatic = rule.start is Start.AUTOMATIC and bool(stack) and seen
    if rule.start is Start.AUTOMATIC and not seen:
        why += ", but its symptoms were not seen" if runbook.symptoms else ", but it declares no symptoms"
    why += "" if stack else "; it is not said on which stack"
    try:
        inputs = render(rule.inputs, {"labels": labels, "annotations": incident.opened.annotations})
    except K2runError as error:
        inputs, automatic, why = {}, False, f"{why}; its inputs could not be filled in: {error.message}"
    return Chosen(
        runbook=runbook.name,
        path=runbook.path,
        stack=stack,
        inputs=inputs,
        automatic=automatic,
        seen=seen,
        why=why,
    )
