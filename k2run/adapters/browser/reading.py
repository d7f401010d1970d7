"""How large the letters of a page are, and whether its picture shows anything."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from playwright.async_api import Page

_SMALLEST = """
() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = { px: null, text: "", letters: 0 };
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.textContent.trim(), parent = node.parentElement;
    if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(parent.nodeName)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (box.width <= 2 || box.height <= 2) continue;
    if (box.bottom <= 0 || box.right <= 0 || box.top >= innerHeight || box.left >= innerWidth) continue;
    if (!parent.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (getComputedStyle(parent).clipPath !== "none") continue;
    const drawing = parent.closest("svg");
    const scale = drawing && parent.getScreenCTM ? parent.getScreenCTM().d : 1;
    const px = parseFloat(getComputedStyle(parent).fontSize) * scale;
    found.letters += text.length;
    if (found.px === null || px < found.px) { found.px = px; found.text = text.slice(0, 60); }
  }
  return found;
}
"""
_SIGNATURE = 8
"""Bytes before the first chunk of a PNG."""


class Letters(NamedTuple):
    """The text in view.

    Attributes:
        px: Size of the smallest letters in pixels of the picture, as it is drawn; None without any text.
        text: Where they are.
        letters: How many letters are in view.
    """

    px: float | None
    text: str
    letters: int


async def letters(page: Page) -> Letters:
    """Measure the text that a page shows in its view."""
    found = await page.evaluate(_SMALLEST)
    px = None if found["px"] is None else round(float(found["px"]), 1)
    return Letters(px, str(found["text"]), int(found["letters"]))


def ink(png: bytes) -> float:
    """The share of a picture that differs from what is beside it; 0 of a blank one.

    Args:
        png: As a browser writes it: each line is stored as what it adds to its neighbours.
    """
    packed, at = bytearray(), _SIGNATURE
    while at + 8 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + size]
        at += 12 + size
    plain = zlib.decompress(packed)
    return round(1 - plain.count(0) / len(plain), 5) if plain else 0.0
