"""All services of a stack at once, for symptoms that concern more than one."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from k2run.actions.action import Result, action
from k2run.actions.deadline import Deadline
from k2run.errors import K2runError, NotApplicable, Unknown
from k2run.language.quantities import Duration
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.model import RunBy
from k2run.stack.services import Services, stranger_on

if TYPE_CHECKING:
    from k2run.stack.lifecycle import Look
    from k2run.stack.model import Service

AT_THE_START = timedelta(seconds=5)
"""A service that ends with an error within this time after its start cannot start."""
_LAST_LINES = 20
_ERROR = re.compile(r"^(\S+: )?(error|fatal|panic)\b", re.IGNORECASE)
ANSWER_S = 1.5
TOLERANCE = Duration(5)
"""A header tells whole seconds, and some servers renew theirs once a second."""


class RollCall(Result, frozen=True, kw_only=True):
    """What every service of a stack is doing; those that the stack leaves out on this machine are not counted.

    Attributes:
        count: How many services there are.
        well: Those that are running and healthy.
        held: Those that are paused.
        down: Those that do not run.
        gave_up: Those of them whose log ends with an error of the first five seconds: they cannot start.
        silent: Those that run, and whose `ready` probe gets no answer.
        unseen: Those that the stack does not say how to see.
    """

    count: int
    well: list[str] = []
    held: list[str] = []
    down: list[str] = []
    gave_up: list[str] = []
    silent: list[str] = []
    unseen: list[str] = []

    def headline(self) -> str:
        """Such as `4 of 6 well; down: api; silent: stream`."""
        kinds = {"down": self.down, "held": self.held, "silent": self.silent}
        wrong = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
        return "; ".join([f"{len(self.well)} of {self.count} well", *wrong])


@action("service.roll_call")
def roll_call(services: Services, deadline: Deadline) -> RollCall:
    """What all services of the stack are doing, side by side.

    Raises:
        Unknown: What runs one of them gives no answer, so it may be up or down.
    """
    looks = [look for look in lifecycle.status(services.stack) if not services.stack.absent(look.service.name)]
    for look in looks:
        if look.unreached:
            raise Unknown(f"what {look.service.name} is doing cannot be known: {look.status.detail}")
    runs = [look for look in looks if look.status.state is not State.STOPPED]
    down = [look for look in looks if look.status.state is State.STOPPED]
    return RollCall(
        count=len(looks),
        well=[look.service.name for look in looks if look.works],
        held=[look.service.name for look in looks if look.status.state is State.PAUSED],
        down=[look.service.name for look in down],
        gave_up=[look.service.name for look in down if _gave_up(services, look, deadline)],
        silent=[look.service.name for look in runs if look.probe is not None and not look.probe.answered],
        unseen=[look.service.name for look in looks if not look.is_known],
        source=services.stack.name,
    )


def _gave_up(services: Services, look: Look, deadline: Deadline) -> bool:
    """Whether a service that is down could not start, by the end of its log."""
    try:
        lines = services.backend(look.service.name).log(lines=_LAST_LINES, since=None, deadline=deadline)
    except K2runError:
        return False  # without a log it cannot be known
    if not lines or not _ERROR.search(lines[-1].text):
        return False
    started = look.status.started_at
    times = [line.at for line in lines if line.at is not None]
    return started is None or not times or max(times) < started + AT_THE_START


class Strangers(Result, frozen=True, kw_only=True):
    """Who holds ports that services of the stack should have.

    Attributes:
        ports: How many ports were checked.
        taken: One line for each that another process holds, with service, port, and the holder's pid and command.
        services: The services whose ports these are.
        pids: The holders' pids, as far as they can be seen.
    """

    ports: int
    taken: list[str] = []
    services: list[str] = []
    pids: list[int] = []

    def headline(self) -> str:
        """Such as `port 19095 of consumer: pid 4242 (nginx)`."""
        return "; ".join(self.taken) if self.taken else f"none of {self.ports} ports"


@action("service.strangers")
def strangers(services: Services) -> Strangers:
    """Whether processes outside the stack hold ports of its services; only services that k2run runs as processes."""
    wanted = [
        (service.name, port)
        for service in services.all()
        if service.run is RunBy.PROCESS and not services.stack.absent(service.name)
        for port in service.ports
    ]
    found = [(name, port, holder) for name, port in wanted if (holder := stranger_on(port, services.stack)) is not None]
    return Strangers(
        ports=len(wanted),
        taken=[f"port {port} of {name}: {holder.says}" for name, port, holder in found],
        services=list(dict.fromkeys(name for name, _, _ in found)),
        pids=sorted({holder.pid for _, _, holder in found} - {0}),
        source=services.stack.name,
    )


class Clocks(Result, frozen=True, kw_only=True):
    """How far the clocks of the services are from this machine's.

    Attributes:
        offsets_s: By service, above zero when it is ahead.
        wrong: The services whose clock is further away than the tolerance.
        unseen: The services that did not tell the time.
        worst_s: The largest distance.
    """

    offsets_s: dict[str, float]
    wrong: list[str] = []
    unseen: list[str] = []
    worst_s: float = 0.0

    def headline(self) -> str:
        """Such as `consumer 3600 s behind`."""
        if not self.wrong:
            return f"{len(self.offsets_s)} clocks agree"
        told = (f"{name} {abs(at):.0f} s {'ahead' if at > 0 else 'behind'}" for name, at in self.offsets_s.items())
        return ", ".join(line for line, name in zip(told, self.offsets_s, strict=True) if name in self.wrong)


@action("service.clocks")
def clocks(services: Services, deadline: Deadline, tolerance: Duration = TOLERANCE) -> Clocks:
    """How far the clocks of the services are from this machine's, by the `Date` of their HTTP answers.

    Args:
        tolerance: Less than this is no difference.

    Raises:
        NotApplicable: No service speaks HTTP.
        Unknown: None of them told the time.
    """
    asked = {service.name: url for service in services.all() if (url := _address(service))}
    if not asked:
        raise NotApplicable(f"no service of the stack {services.stack.name!r} has an HTTP address")
    patience = deadline.at_most(ANSWER_S)
    with ThreadPoolExecutor(len(asked)) as threads:
        read = dict(zip(asked, threads.map(lambda url: _offset(url, patience), asked.values()), strict=True))
    offsets = {name: offset for name, offset in read.items() if offset is not None}
    if not offsets:
        raise Unknown("no service told the time", hint="are they running?")
    return Clocks(
        offsets_s=offsets,
        wrong=[name for name, offset in offsets.items() if abs(offset) > tolerance],
        unseen=[name for name, offset in read.items() if offset is None],
        worst_s=max(map(abs, offsets.values())),
        source=services.stack.name,
    )


def _address(service: Service) -> str:
    """Where a service itself answers: its metrics are seldom behind a proxy."""
    return service.metrics or (service.ready.http if service.ready is not None else "") or service.url


def _offset(url: str, patience: float) -> float | None:
    """Seconds by which a server is ahead; None when it does not say."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    began = time.time()
    try:
        with urlopen(Request(url, method="GET"), timeout=patience) as answer:  # noqa: S310 - an address of the stack file
            told = answer.headers.get("Date")
    except HTTPError as error:
        told = error.headers.get("Date")
    except OSError:
        return None
    if not told:
        return None
    try:
        return round(parsedate_to_datetime(told).timestamp() + 0.5 - (began + time.time()) / 2, 1)
    except ValueError:
        return None
