"""Values that are written in a notation of their own, such as `p99 < 500ms`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self


class Misread(ValueError):
    """A text that is not in its notation.

    Attributes:
        at: The character of the text at which it goes wrong; `length` of them are wrong.
        hint: The way out.
    """

    def __init__(self, message: str, *, at: int = 0, length: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.at = at
        self.length = length
        self.hint = hint


class Notation(ABC):
    """A value that is written in a notation of its own, such as `p99 < 500ms`; the package that reads it brings it.

    Attributes:
        example: What one looks like.
        says: What it is, for messages: `a threshold such as p99 < 500ms`.
        pattern: A regular expression that every one of them fits, for the JSON Schema.
    """

    example: ClassVar[str]
    says: ClassVar[str]
    pattern: ClassVar[str]

    @classmethod
    @abstractmethod
    def parse(cls, value: Any) -> Self:
        """Read one.

        Raises:
            Misread: It is none; the error says where it goes wrong.
        """
