"""A run on a terminal: live, as plain lines, or as JSON. Only the live display loads a terminal library."""

from k2run.terminal.face import Face
from k2run.terminal.mode import Mode, open_face

__all__ = ["Face", "Mode", "open_face"]
