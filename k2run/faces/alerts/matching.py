"""Which runbook answers an incident: by the labels of its alerts, and by the symptoms of the stack."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k2run.errors import K2runError
from k2run.faces.alerts.incident import Chosen
from k2run.language.expressions import render
from k2run.language.model import Start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k2run.faces.alerts.incident import Incident
    from k2run.language.model import AlertRule, Runbook


def fits(rule: AlertRule, labels: Mapping[str, str]) -> bool:
    """Whether every label that a rule names is there and matches as a whole."""
    return all(name in labels and re.fullmatch(pattern, labels[name]) for name, pattern in rule.labels.items())


def choose(incident: Incident, runbooks: Sequence[Runbook], stack: str) -> Chosen:
    """The runbook for an incident.

    Among those whose `alerts` fit, one whose symptoms are present goes before others, then the one that names more
    labels. Where none fits, the best match of the diagnosis is offered, and never started without approval.

    Args:
        incident: The incident, diagnosed.
        runbooks: All recovery runbooks.
        stack: The stack of rules and runbooks that name none.
    """
    matches = incident.diagnosed.matches if incident.diagnosed is not None else []
    candidates = [
        (runbook, rule, labels)
        for runbook in runbooks
        for rule in runbook.alerts
        for labels in _label_sets(incident)
        if fits(rule, labels)
    ]
    if candidates:
        runbook, rule, labels = min(candidates, key=lambda found: _rank(found[0], found[1], matches))
        return _chosen(incident, runbook, rule, labels, stack, present=runbook.name in matches)
    named = next((runbook for name in matches for runbook in runbooks if runbook.name == name), None)
    if named is not None:
        return Chosen(runbook=named.name, path=named.path, stack=stack, why="its symptoms are present")
    return Chosen(why="no runbook answers these alerts, and no failure was recognised")


def stack_of(incident: Incident, runbooks: Sequence[Runbook], stack: str) -> str:
    """The stack to look at: the one that a rule which fits names, else the given one."""
    rules = (rule for runbook in runbooks for rule in runbook.alerts if rule.stack)
    fitting = (rule.stack for rule in rules if any(fits(rule, labels) for labels in _label_sets(incident)))
    return next(fitting, stack)


def _label_sets(incident: Incident) -> list[dict[str, str]]:
    """The labels of each alert that fires; an alert has those of its group too."""
    return [{**incident.opened.labels, **alert.labels} for alert in incident.firing] or [incident.opened.labels]


def _rank(runbook: Runbook, rule: AlertRule, matches: Sequence[str]) -> tuple[int, int, str]:
    place = matches.index(runbook.name) if runbook.name in matches else len(matches)
    return place, -len(rule.labels), runbook.name


def _chosen(  # noqa: PLR0913, PLR0917 - what a choice rests on
    incident: Incident, runbook: Runbook, rule: AlertRule, labels: dict[str, str], stack: str, present: bool
) -> Chosen:
    why = "its alerts fit" + (", and its symptoms are present" if present else "")
    automatic = rule.start is Start.AUTOMATIC
    try:
        inputs = render(rule.inputs, {"labels": labels, "annotations": incident.opened.annotations})
    except K2runError as error:
        inputs, automatic, why = {}, False, f"{why}; its inputs could not be filled in: {error.message}"
    return Chosen(
        runbook=runbook.name,
        path=runbook.path,
        stack=rule.stack or stack,
        inputs=inputs,
        automatic=automatic,
        why=why,
    )
