"""The commands for a stack's services, and for what runs unattended: page, schedules, incidents, metrics."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from k2run.cli.command import RUN, STACK, command, print_json, say

if TYPE_CHECKING:
    from invoke import Context

    from k2run.app.diagnose import StackStatus
    from k2run.engine.store import Store
    from k2run.stack.stack import Stack

STOP_TIMEOUT = 15.0


@command(help={"stack": STACK, "timeout": "time limit in seconds"})
def up(c: Context, stack: str = "", timeout: int = 60) -> None:
    """Start the services of a stack and wait until they are ready."""
    from k2run.actions.deadline import Deadline
    from k2run.engine.safeguards import StopRequest
    from k2run.engine.store import hold
    from k2run.language.quantities import Duration
    from k2run.stack import lifecycle
    from k2run.terminal.safe_stream import complain

    store, opened = _open(stack)
    began = time.monotonic()
    with StopRequest() as signals, hold(store.stack_folder(opened.name), opened.name, "k2run up"):
        died = lifecycle.died(opened)
        started = lifecycle.start(opened, None, Deadline(timeout, signals.run), say, outside=True)
        store.note_up(opened.name)
    taken = Duration(time.monotonic() - began)
    say(f"started {', '.join(started)} in {taken}" if started else f"all services of {opened.name} were already up")
    if died:
        say(
            f"had ended without `k2run down`: {', '.join(died)}; what they held in memory alone is lost",
            "  `k2run recover` instead of `k2run up` also counts it, where a recovery runbook can",
        )
    for service in opened.services.values():
        if service.url and not opened.absent(service.name):
            say(f"  {service.name:<12} {opened.redact(service.url)}")
    if opened.data_path is not None and not opened.data_path.is_file():
        complain(
            f"warning: {opened.path}: there is no {opened.data_path}, which `data_path` names, so whether data flows"
            " from end to end cannot be checked",
            f"  hint: correct `data_path`, or take it out; `k2run validate {opened.path}` shows where it is",
        )


@command(help={"stack": STACK})
def down(c: Context, stack: str = "") -> None:
    """Stop the services of a stack."""
    from k2run.actions.deadline import Deadline
    from k2run.engine.store import hold
    from k2run.stack import lifecycle

    store, opened = _open(stack)
    with hold(store.stack_folder(opened.name), opened.name, "k2run down"):
        stopped = lifecycle.stop(opened, None, Deadline(STOP_TIMEOUT, threading.Event()))
        store.note_down(opened.name, stopped)
    say(f"stopped {', '.join(stopped)}" if stopped else f"no service of {opened.name} was up")


@command(help={"stack": STACK, "json": "as JSON"})
def status(c: Context, stack: str = "", json: bool = False) -> int:
    """Show service health and faults left by earlier runs."""
    from k2run.actions.catalogue import Catalogue
    from k2run.app.diagnose import status_of
    from k2run.app.recover import unfinished_attempt

    store, opened = _open(stack)
    found = status_of(opened, Catalogue())
    if json:
        print_json(found)
    else:
        _table(opened, store, found)
        for line in unfinished_attempt(store, opened.name):
            say(line)
    return 0 if found.healthy else 1


@command(
    positional=("service",),
    help={"service": "name of the service", "stack": STACK, "lines": "number of lines"},
)
def logs(c: Context, service: str, stack: str = "", lines: int = 50) -> None:
    """Show the last lines of a service's log."""
    from k2run.app.launch import open_stack
    from k2run.stack import lifecycle

    for line in lifecycle.logs(open_stack(stack), service, lines):
        say(line.text)


def _open(reference: str) -> tuple[Store, Stack]:
    """Open a stack; faults that earlier runs left are warned of."""
    from k2run.app.launch import open_stack
    from k2run.app.leftover_faults import warn_of_broken
    from k2run.engine.store import Store

    store = Store()
    warn_of_broken(store)
    return store, open_stack(reference, store=store)


def _table(stack: Stack, store: Store, found: StackStatus) -> None:
    from k2run.engine.store import holder
    from k2run.evidence.wording import clean
    from k2run.language.quantities import Duration

    held = holder(store.stack_folder(stack.name))
    say(f"{stack.title} ({stack.path})" + (f", held by {held}" if held else ""))
    say(f"{'service':<14} {'state':<15} {'works':<6} {'pid':>8} {'up':>8} {'restarts':>8}  detail")
    for row in found.services:
        up = str(Duration(row.uptime_s)) if row.uptime_s is not None else "-"
        works = "-" if row.works is None else "yes" if row.works else "no"
        pid, restarts = ("-" if value is None else value for value in (row.pid, row.restarts))
        say(f"{row.service:<14} {row.state:<15} {works:<6} {pid!s:>8} {up:>8} {restarts!s:>8}  {row.detail}")
        for why in row.why:
            say(f"{'':<14} why: {clean(why)}")
    for step in found.data_path:
        works = "cannot be seen" if step.works is None else "works" if step.works else "broken"
        asked = f"  [{clean(step.expected)}]" if step.expected and not step.works else ""
        say(f"data path {works}: {clean(step.name)}: {clean(step.detail)}{asked}")
    silent = [row.service for row in found.services if row.unreached]
    if silent:
        say(f"gave no answer now, so they may be healthy or not: {', '.join(silent)}")
    unknown = [
        row.service for row in found.services if row.state == "unknown" and row.works is None and not row.unreached
    ]
    if unknown:
        say(f"cannot be seen, so nothing is known of them (`ready:` in the stack file): {', '.join(unknown)}")


TASKS = (up, down, status, logs)


@command(
    iterable=["allow"],
    help={
        "host": "address to listen on; beyond this machine, viewing needs a token too",
        "port": "port to listen on",
        "allow": "another host name of this server; may be given several times",
        "private": "viewing needs a token too",
        "until-eof": "end when standard input ends, as it does with the program that started this",
    },
)
def serve(
    c: Context,
    host: str = "127.0.0.1",
    port: int = 8642,
    allow: list[str] | None = None,
    private: bool = False,
    until_eof: bool = False,
) -> None:
    """Serve the web page: start runs, follow them live, answer prompts, abort, read reports."""
    from k2run.web.server import serve as serve_page

    serve_page(host, port, allow=allow or [], private=private, until_eof=until_eof)


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
    from k2run.daemon.alerts.incident_messages import approve_incident, decline_incident, show_incidents

    if approve:
        approve_incident(approve)
    elif decline:
        decline_incident(decline)
    else:
        show_incidents(all_=all, json=json)


@command()
def metrics(c: Context) -> None:
    """Print the metrics of k2run itself, as `k2run serve` shows them at /metrics."""
    from k2run.daemon.own_metrics import show_metrics

    show_metrics()


UNATTENDED_TASKS = (serve, schedule, incidents, metrics)
