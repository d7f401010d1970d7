"""A run on a terminal: live, as plain lines, or as JSON. Only the live display loads a terminal library."""

from k2run.faces.terminal.face import Face, Mode, open_face
from k2run.faces.terminal.person import TerminalPerson

__all__ = ["Face", "Mode", "TerminalPerson", "open_face"]
