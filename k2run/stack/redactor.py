"""Takes secrets out of everything that is shown or kept."""

from __future__ import annotations

import base64
import json
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator

MASK = "•••"
SHORTEST = 4
"""Characters; a shorter value would be found by chance in every other word, so it cannot be kept out of the records."""
_LINE = 8  # characters; a line of a longer secret (a PEM file) is masked by itself: logs print line by line


class Redactor:
    """Knows the secrets that were read so far, and replaces them by `•••`.

    It is told each secret before anybody else gets it. Also found: the URL-quoted, JSON-escaped and base64 forms, the
    last also inside a longer encoded text such as `user:password`.
    """

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def add(self, secret: str) -> None:
        """From now on, this text is masked."""
        with self._lock:
            self._forms.update(form for form in _forms(secret) if len(form) >= SHORTEST)
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

    def clean(self, value: Any) -> Any:
        """A value of dicts, lists and plain values without secrets; the same object when none is known."""
        return value if self._pattern is None else self._walk(value)

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self._walk(key): self._walk(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self._walk, value))
        return value


def _forms(secret: str) -> Iterator[str]:
    """Every way in which a secret is likely to be written."""
    yield from _escaped(secret)
    yield from _encoded(secret.encode())
    lines = secret.splitlines()
    if len(lines) > 1:
        for line in lines:
            if len(line) >= _LINE:
                yield from _escaped(line)


def _escaped(text: str) -> Iterator[str]:
    yield text
    yield quote(text, safe="")
    yield quote(text)
    yield quote_plus(text)
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text)[1:-1]


def _encoded(raw: bytes) -> Iterator[str]:
    """Base64 of the bytes at each of the three places that they can have in a longer text.

    The characters at both ends mix with the neighbours, so only the whole sextets between them are looked for.
    """
    for shift in range(3):
        first = -(-shift * 8 // 6)  # sextets that hold bits of what stands before
        whole = (shift + len(raw)) * 8 // 6  # sextets up to the end that hold no bits of what follows
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * shift + raw).decode()[first:whole]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode()
        yield encode(raw).decode().rstrip("=")
