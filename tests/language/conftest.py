"""What the tests of the language share: a small vocabulary, the forms of a few actions with nothing behind them."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING, Any, Literal

import pytest
from msgspec import Struct

from k2run.language.loader import parse_runbook
from k2run.language.quantities import Duration, Rate, Size
from k2run.language.vocabulary import Effect

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.model import Runbook, Step

HEAD = "runbook: 1\nkind: readiness\nsections:\n  - name: Only\n    steps:\n"


class Form(Struct, frozen=True):
    """The form of one action."""

    name: str
    arguments: Any
    result: Any = Any
    connections: tuple[type, ...] = ()
    effect: Any = None


class Kafka:
    needs_argument = ""


class Services:
    needs_argument = "service"


class LagArguments(Struct, forbid_unknown_fields=True):
    topic: str
    group: str
    window: Duration = Duration(1)
    partitions: list[int] = []


class Partition(Struct):
    id: int
    lag: int


class Lag(Struct):
    total: int
    age_s: float
    p99_ms: float
    per_partition: list[Partition]
    worst: Partition | None = None
    labels: dict[str, str] = {}

    @property
    def is_zero(self) -> bool:
        return self.total == 0


class GetArguments(Struct, forbid_unknown_fields=True):
    url: str = ""
    service: str = ""
    path: str = "/"
    params: dict[str, Any] = {}
    method: Literal["GET", "HEAD", "POST"] = "GET"
    status: int = 200
    at_most: Size = Size(1024)
    rate: Rate | None = None
    follow: bool = True


class Answer(Struct):
    status: int
    elapsed_ms: float
    body: Any


class NoArguments(Struct, forbid_unknown_fields=True):
    pass


class Service(Struct, forbid_unknown_fields=True):
    service: str


FORMS = (
    Form("kafka.lag", LagArguments, Lag, (Kafka,)),
    Form("kafka.ping", NoArguments, Any, (Kafka,)),
    Form("http.get", GetArguments, Answer, (Services,)),
    Form("http.head", GetArguments, Answer, (Services,)),
    Form("service.pause", Service, Any, (Services,), Effect.BREAKS),
    Form("service.ready", Service, Any, (Services,), Effect.OBSERVES),
    Form("service.restart", Service, Any, (Services,), Effect.CHANGES),
)


class Vocabulary:
    """Finds the forms by name."""

    def __init__(self) -> None:
        self._forms = {form.name: form for form in FORMS}

    def find(self, name: str) -> Form | None:
        """The form of that name."""
        return self._forms.get(name)

    def names(self) -> list[str]:
        """Every name."""
        return sorted(self._forms)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary()


@pytest.fixture(scope="session")
def read(vocabulary: Vocabulary) -> Callable[[str], Runbook]:
    """Reads the text of a runbook with the small vocabulary."""
    return lambda text: parse_runbook(text, "runbook.yaml", vocabulary)


@pytest.fixture(scope="session")
def read_steps(read: Callable[[str], Runbook]) -> Callable[[str], tuple[Step, ...]]:
    """Reads a list of steps as the only section of a runbook."""
    return lambda steps: read(HEAD + indent(steps, " " * 6)).sections[0].steps
