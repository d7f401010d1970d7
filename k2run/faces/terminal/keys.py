"""The keyboard while the display moves: Ctrl-C interrupts, but does not write `^C` into the picture."""

from __future__ import annotations

import termios
from typing import TextIO

_LOCAL_MODES = 3
"""Place of the local modes among what `termios.tcgetattr` returns."""


class QuietKeys:
    """Keeps a terminal from echoing control keys, for as long as it is asked to.

    Args:
        stream: The terminal; on anything else, nothing is done.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._echoed = False

    def begin(self) -> None:
        """Stop the echo."""
        self._echoed = self._set(echo=False)

    def end(self) -> None:
        """Put it back, if it was there before."""
        if self._echoed:
            self._set(echo=True)
            self._echoed = False

    def _set(self, *, echo: bool) -> bool:
        """Change the echo; returns how it was."""
        try:
            number = self._stream.fileno()
            modes = termios.tcgetattr(number)
            before = bool(modes[_LOCAL_MODES] & termios.ECHOCTL)
            modes[_LOCAL_MODES] = (
                modes[_LOCAL_MODES] | termios.ECHOCTL if echo else modes[_LOCAL_MODES] & ~termios.ECHOCTL
            )
            termios.tcsetattr(number, termios.TCSANOW, modes)
        except (OSError, ValueError, termios.error):
            return False
        return before
