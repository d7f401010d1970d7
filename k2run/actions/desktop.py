"""The desktop of whoever sits at this machine."""

from __future__ import annotations

import os
import sys


def open_on_desktop(address: str) -> bool:
    """Open an address in the browser of the desktop; whether there is one.

    A browser inside the terminal is none: it would take the terminal away from the run.
    """
    has_desktop = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not has_desktop:
        return False
    import webbrowser

    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False
