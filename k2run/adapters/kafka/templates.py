"""Templates of synthetic messages: `template: NAME` of a step, each an entry point of the group `k2run.messages`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from k2run.language.problems import did_you_mean
from k2run.language.quantities import Misread, Notation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ENTRY_POINTS = "k2run.messages"


class MessageTemplate(NamedTuple):
    """How messages of one kind are made up.

    Attributes:
        symbols: The keys of the messages, unless a step names others.
        messages: Makes endless messages, as (key, value), from a prefix of their ids, a seed and the keys.
    """

    symbols: Sequence[str]
    messages: Callable[[str, int, Sequence[str]], Iterator[tuple[bytes, bytes]]]


class Template(str, Notation):
    """The name of a template."""

    example: ClassVar[str] = "trade"
    says: ClassVar[str] = "the name of a template of messages, such as trade"
    pattern: ClassVar[str] = r"^\w+$"

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a name.

        Raises:
            Misread: There is no such template.
        """
        known = _entry_points()
        if value not in known:
            raise Misread(f"there is no template {value!r}", hint=did_you_mean(str(value), known))
        return cls(value)


def template_of(name: str) -> MessageTemplate:
    """The template of that name."""
    found: MessageTemplate = _entry_points()[name].load()
    return found


@cache
def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
