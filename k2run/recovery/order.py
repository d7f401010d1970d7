"""Which of several failures is repaired first."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from k2run.engine.outline import steps_within
from k2run.errors import K2runError
from k2run.language.expressions import roles_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook, Step
    from k2run.recovery.diagnosis import Suspect
    from k2run.stack.stack import Stack

_STARTS = {"service.start", "service.resume", "service.restart", "settings.restore"}


class Order:
    """Orders the repairs of one stack.

    A recovery waits for another when it works with what the other one repairs: the proof that rows arrive asks the
    API, so an API that is down comes before a stream that is down. What a recovery starts by itself it does not wait
    for. Two that would wait for each other keep the order of their likelihood. One that repairs no service frees what
    all of them need, a disk or a port, and waits for none.

    Args:
        runbooks: The recoveries.
        stack: The stack they repair.
        catalogue: The actions of their steps.
    """

    def __init__(self, runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue) -> None:
        self._stack = stack
        self._catalogue = catalogue
        self._runbooks = {runbook.name: runbook for runbook in runbooks}

    def first(self, suspects: Sequence[Suspect]) -> Suspect | None:
        """The failure to repair first: the most likely one that waits for no other; None when there is none.

        Args:
            suspects: What is wrong, the most likely first.
        """
        for suspect in suspects:
            runbook = self._runbooks[suspect.runbook]
            if not runbook.requires:
                return suspect
            others = [self._runbooks[other.runbook] for other in suspects if other is not suspect]
            if not any(self._needs(runbook, other) and not self._needs(other, runbook) for other in others):
                return suspect
        return suspects[0] if suspects else None

    def _needs(self, runbook: Runbook, other: Runbook) -> bool:
        """Whether a recovery works with something that the other one repairs."""
        return bool(self.works_with(runbook) & ({*other.requires} - {*runbook.requires}))

    def works_with(self, runbook: Runbook) -> set[str]:
        """The services that the steps of a recovery work with, but for those that it starts."""
        steps = [step for section in runbook.sections for step in steps_within(section.steps)]
        started = {step.args.get("service") for step in steps if step.action in _STARTS}
        return {name for step in steps for name in self._touched(step)} - started

    def _touched(self, step: Step) -> Iterator[str]:
        """Services that a step names, and those at the address of a connection that its action needs."""
        named = step.args.get("service")
        if isinstance(named, str):
            yield named
        for role in roles_in(step.args):
            with suppress(K2runError):  # its own steps will say so
                yield from filter(None, [getattr(self._stack.roles.get(role), "service", "")])
        action = self._catalogue.find(step.action)
        for kind in action.connections if action is not None else ():
            ports = self._ports(kind.key)
            yield from (name for name, service in self._stack.services.items() if ports & {*service.ports})

    def _ports(self, connection: str) -> set[int]:
        """The ports in the settings of a connection; none where they cannot be read: its own actions will say so."""
        try:
            settings = str(self._stack.settings(connection) or "")
        except K2runError:
            return set()
        return {int(port) for port in re.findall(r":(\d+)", settings)}
