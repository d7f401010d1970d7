"""Every error that k2run raises on purpose, in one tree.

The family says who must act, and the command line turns it into an exit code:

    K2runError
    ├── AuthorError                  exit 2   the runbook (or the command line) must be changed
    │   ├── RunbookInvalid                    its problems, each with a place
    │   ├── ExpressionFailed                  an expression could not be evaluated on the values it met
    │   └── UsageError                        a wrong option, an unknown run, a missing file
    ├── OperatorError                exit 5   the stack, or the machine k2run runs on: a place, a port, a program
    │   ├── StackInvalid             exit 2   the stack file is wrong
    │   ├── StackBusy                exit 4   another run holds the stack
    │   ├── StackUnavailable                  could not be reached or started
    │   ├── Unsettled                exit 6   refused: an earlier run left faults in place
    │   ├── Protected                exit 6   refused: the stack allows no faults from this runbook
    │   └── JournalLost                       the journal cannot be written (disk full, read-only); exit 1 in a run
    ├── ActionError                           an action failed; the step fails; exit 5 outside a run
    │   ├── Unreachable                       no answer from the system
    │   ├── Refused                           the system answered no (password, permission, bad request)
    │   ├── Unknown                           nothing to judge: no series, no rows, no such thing to see
    │   ├── NotApplicable                     this stack has no such service or connection; exit 2 outside a run
    │   ├── NotConfirmed                      a person should have answered, and none was there
    │   └── TimedOut                          the deadline of the step passed
    └── Interrupted                  exit 3   a person or the system asked the run to end
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.language.problems import Problem


class K2runError(Exception):
    """An error with a message for the user and a hint for fixing it.

    Args:
        message: What happened, and where; one sentence without a full stop.
        hint: What to do next; may be empty.
        result: What was found all the same: `register` hands it on.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", result: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.result = result

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class AuthorError(K2runError):
    """The runbook or the command line must be changed."""

    exit_code = 2


class RunbookInvalid(AuthorError):
    """A runbook (or stack file) has problems; each knows its place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} found")
        self.problems = tuple(problems)


class ExpressionFailed(AuthorError):
    """An expression could not be evaluated on the values it met (a missing field, a None compared)."""


class NotWhole(ExpressionFailed):
    """An expression looks at what is not known: a text that was cut, an answer that could not be read."""


class Inapplicable(ExpressionFailed):
    """An expression builds on the value of a step that does not apply to this stack."""


class UsageError(AuthorError):
    """The command line asks for something that does not exist or cannot be done."""


class OperatorError(K2runError):
    """The stack, or the machine that k2run runs on, needs attention."""

    exit_code = 5


class StackInvalid(OperatorError):
    """The stack file is wrong or missing."""

    exit_code = 2


class StackBusy(OperatorError):
    """Another run holds the stack."""

    exit_code = 4


class StackUnavailable(OperatorError):
    """The stack could not be reached or started."""


class Unsettled(OperatorError):
    """An earlier run ended without undoing its faults."""

    exit_code = 6


class Protected(OperatorError):
    """The stack is protected and the runbook is not allowed to break it."""

    exit_code = 6


class JournalLost(OperatorError):
    """The journal cannot be written, so nothing may be done any more."""


class ActionError(K2runError):
    """An action failed."""


class Unreachable(ActionError):
    """The system gave no answer."""


class Refused(ActionError):
    """The system answered, and the answer was no."""


class Unknown(ActionError):
    """There is nothing to judge: no series, no rows, no such thing to see. Never read as zero."""


class NotApplicable(ActionError):
    """This stack has no such service or connection."""


class NotConfirmed(ActionError):
    """A person should have answered, and none was there."""


class TimedOut(ActionError):
    """The deadline of the step passed."""


class Interrupted(K2runError):
    """A person or the system asked the run to end."""

    exit_code = 3
