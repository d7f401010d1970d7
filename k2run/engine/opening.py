"""The first event of a run: what is run, on what, how it was asked for, and what is to come."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import k2run
from k2run.engine.events import RunStarted
from k2run.engine.inputs import shown_extra, shown_inputs
from k2run.engine.outline import bands, categories, outline

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.engine.request import Request


def run_started(request: Request, folder: Path, inputs: dict[str, Any]) -> RunStarted:
    """The event.

    Args:
        request: What was asked for.
        folder: The run's folder.
        inputs: The values of the inputs.
    """
    runbook, stack, options = request.runbook, request.stack, request.options
    return RunStarted(
        run=folder.name,
        runbook=runbook.path,
        name=runbook.name,
        title=runbook.title,
        kind=runbook.kind.value,
        digest=runbook.digest,
        stack=stack.name,
        stack_file=str(stack.path),
        owner=runbook.owner,
        inputs=shown_inputs(runbook, inputs),
        options={
            "tags": sorted(options.tags),
            "skip_tags": sorted(options.skip_tags),
            "extra": shown_extra(runbook, options.extra),
            "keep": options.keep,
        },
        attended=options.attended,
        inbox=options.inbox,
        by=options.by,
        pid=os.getpid(),
        versions={"k2run": k2run.__version__, "python": ".".join(map(str, sys.version_info[:3]))},
        environment=_environment(),
        outline=outline(runbook),
        categories=categories(runbook),
        bands=bands(runbook),
        go=runbook.score.go if runbook.score else None,
        within=runbook.objective.within,
        rto=runbook.objective.rto,
        rpo=runbook.objective.rpo,
    )


def _environment() -> dict[str, str]:
    system = os.uname()
    return {
        "host": system.nodename,
        "system": f"{system.sysname} {system.release} {system.machine}",
        "cores": str(os.cpu_count()),
    }
