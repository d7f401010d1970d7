"""Tasks for what happens while nobody watches: schedules and incidents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke import task

from k2run.friendly import friendly

if TYPE_CHECKING:
    from invoke import Context


@task(
    positional=[],
    iterable=["runbook"],
    auto_shortflags=False,
    help={
        "runbook": "runbook or folder to look after; may be given several times (all of runbooks/ by default)",
        "list": "show the next ten starts and the last ten, and end",
        "json": "the list as JSON",
        "calendar": "calendar file with the events (calendar.yaml by default)",
        "patience": "how long runs may still take after SIGTERM before they are asked to undo and end",
    },
)
def schedule(
    c: Context,
    runbook: list[str],
    list: bool = False,  # noqa: A002 - the option is called so
    json: bool = False,
    calendar: str = "",
    patience: str = "60s",
) -> None:
    """Start runbooks when their `schedule` says so."""
    with friendly():
        from k2run.faces.schedule.opening import keep_schedule, list_schedule

        if list or json:
            list_schedule(runbook, calendar=calendar, json=json)
        else:
            keep_schedule(runbook, calendar=calendar, patience=patience)


@task(
    positional=[],
    auto_shortflags=False,
    help={
        "all": "closed incidents too",
        "approve": "say that the runbook of this incident may be started: its id, a unique part of it, or `last`",
        "decline": "say that the runbook of this incident is not to be started",
        "json": "as JSON",
    },
)
def incidents(
    c: Context,
    all: bool = False,  # noqa: A002 - the option is called so
    approve: str = "",
    decline: str = "",
    json: bool = False,
) -> None:
    """Show the incidents that alerts have opened, or approve or decline what one wants to start."""
    with friendly():
        from k2run.faces.alerts.listing import approve_incident, decline_incident, show_incidents

        if approve:
            approve_incident(approve)
        elif decline:
            decline_incident(decline)
        else:
            show_incidents(all_=all, json=json)


@task(auto_shortflags=False)
def metrics(c: Context) -> None:
    """Print the metrics of k2run itself, as `k2run serve` shows them at /metrics."""
    with friendly():
        from k2run.engine.store import Store
        from k2run.faces.telemetry.exposition import Exposition

        print(Exposition(Store()).text().decode(), end="")


DUTY = (schedule, incidents, metrics)
