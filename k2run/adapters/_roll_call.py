"""All services of a stack at once, for symptoms that concern more than one."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from k2run.actions.action import Result, action
from k2run.actions.deadline import Deadline
from k2run.errors import K2runError
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.services import Services

if TYPE_CHECKING:
    from k2run.stack.lifecycle import Look

AT_THE_START = timedelta(seconds=5)
"""A service that ends with an error within this time after its start cannot start."""
_LAST_LINES = 20
_ERROR = re.compile(r"^(\S+: )?(error|fatal|panic)\b", re.IGNORECASE)


class RollCall(Result, frozen=True, kw_only=True):
    """What every service of a stack is doing; those that the stack leaves out on this machine are not counted.

    Attributes:
        count: How many services there are.
        well: Those that run and do their work.
        held: Those that are paused.
        down: Those that do not run.
        gave_up: Those of them whose log ends with an error of the first five seconds: they cannot start.
        silent: Those that run, and whose `ready` probe gets no answer.
    """

    count: int
    well: list[str] = []
    held: list[str] = []
    down: list[str] = []
    gave_up: list[str] = []
    silent: list[str] = []

    def headline(self) -> str:
        """Such as `4 of 6 well; down: api; silent: stream`."""
        kinds = {"down": self.down, "held": self.held, "silent": self.silent}
        wrong = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
        return "; ".join([f"{len(self.well)} of {self.count} well", *wrong])


@action("service.roll_call")
def roll_call(services: Services, deadline: Deadline) -> RollCall:
    """What all services of the stack are doing, looked at side by side."""
    looks = [look for look in lifecycle.status(services.stack) if not services.stack.absent(look.service.name)]
    runs = [look for look in looks if look.status.state is not State.STOPPED]
    down = [look for look in looks if look.status.state is State.STOPPED]
    return RollCall(
        count=len(looks),
        well=[look.service.name for look in runs if _is_well(look)],
        held=[look.service.name for look in looks if look.status.state is State.PAUSED],
        down=[look.service.name for look in down],
        gave_up=[look.service.name for look in down if _gave_up(services, look, deadline)],
        silent=[look.service.name for look in runs if look.probe is not None and not look.probe.answered],
        source=services.stack.name,
    )


def _is_well(look: Look) -> bool:
    return look.status.state is State.RUNNING and (look.probe is None or look.probe.ready)


def _gave_up(services: Services, look: Look, deadline: Deadline) -> bool:
    """Whether a service that is down could not start, by the end of its log."""
    try:
        lines = services.backend(look.service.name).log(lines=_LAST_LINES, since=None, deadline=deadline)
    except K2runError:
        return False  # without a log nobody can say
    if not lines or not _ERROR.search(lines[-1].text):
        return False
    started = look.status.started_at
    times = [line.at for line in lines if line.at is not None]
    return started is None or not times or max(times) < started + AT_THE_START
