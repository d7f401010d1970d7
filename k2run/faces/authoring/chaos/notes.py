"""What a conversion could not carry over, said where it happened."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Notes:
    """Collects remarks while an experiment is converted.

    Attributes:
        said: Every remark, with the name of what it is about.
    """

    said: list[tuple[str, str]] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def say(self, about: str, remark: str) -> None:
        """Note that something was not carried over, or means something else in a runbook."""
        self.said.append((about, remark))
        self._open.append(remark)

    def take(self) -> list[str]:
        """The remarks since the last time, for the comments at one place."""
        taken, self._open = self._open, []
        return taken
