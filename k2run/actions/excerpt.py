"""Parts of texts for people; a `…` marks a cut, and tells the redactor that a secret may have been cut there."""

from __future__ import annotations


def beginning(text: str, most: int) -> str:
    """The first characters of a text, at most so many before the `…`."""
    return text if len(text) <= most else f"{text[:most]}…"


def ending(text: str, most: int) -> str:
    """The last characters of a text, at most so many after the `…`."""
    return text if len(text) <= most else f"…{text[-most:]}"
