"""The commands for what runs unattended: the page, schedules, incidents, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.cli.command import RUN, command

if TYPE_CHECKING:
    from invoke import Context


@command(
    iterable=["allow"],
    help={
        "host": "address to listen on; beyond this machine, viewing needs a token too",
        "port": "port to listen on",
        "allow": "another host name of this server; may be given several times",
        "private": "viewing needs a token too",
    },
)
def serve(
    c: Context, host: str = "127.0.0.1", port: int = 8642, allow: list[str] | None = None, private: bool = False
) -> None:
    """Serve the web page: start runs, follow them live, answer prompts, abort, read reports."""
    from k2run.web.server import serve as serve_page

    serve_page(host, port, allow=allow or [], private=private)


@command(
    iterable=["runbook"],
    help={
        "runbook": "runbook or folder to schedule; may be given several times (all of runbooks/ by default)",
        "list": "show the next ten and the last ten starts, and exit",
        "json": "the list as JSON",
        "calendar": "calendar file with the events (calendar.yaml by default)",
        "patience": "how long runs may continue after SIGTERM before they are told to undo and end",
    },
)
def schedule(
    c: Context,
    runbook: list[str],
    list: bool = False,  # noqa: A002 - the name of the option
    json: bool = False,
    calendar: str = "",
    patience: str = "60s",
) -> None:
    """Start runbooks when their `schedule` is due."""
    from k2run.daemon.schedule.daemon import keep_schedule
    from k2run.daemon.schedule.timetable import list_schedule

    if list or json:
        list_schedule(runbook, calendar=calendar, json=json)
    else:
        keep_schedule(runbook, calendar=calendar, patience=patience)


@command(
    help={
        "all": "closed incidents too",
        "approve": f"start the runbook of this incident: {RUN.replace('run', 'incident')}",
        "decline": "do not start the runbook of this incident",
        "json": "as JSON",
    },
)
def incidents(
    c: Context,
    all: bool = False,  # noqa: A002 - the name of the option
    approve: str = "",
    decline: str = "",
    json: bool = False,
) -> None:
    """Show the incidents that alerts have opened, or approve or decline the recovery that one proposes."""
    from k2run.daemon.alerts.messages import approve_incident, decline_incident, show_incidents

    if approve:
        approve_incident(approve)
    elif decline:
        decline_incident(decline)
    else:
        show_incidents(all_=all, json=json)


@command()
def metrics(c: Context) -> None:
    """Print the metrics of k2run itself, as `k2run serve` shows them at /metrics."""
    from k2run.daemon.metrics import Exposition
    from k2run.engine.store import Store

    print(Exposition(Store()).text().decode(), end="")


TASKS = (serve, schedule, incidents, metrics)
