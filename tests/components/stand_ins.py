"""Programs that stand in for ones that no package brings, or that may not run here: k6, systemctl, journalctl.

Each is a small script on a PATH of the test's own that behaves as the real one's documentation says.
"""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def stand_in(folder: Path, name: str, source: str) -> Path:
    """Write a program in Python.

    Args:
        folder: Where.
        name: Its name.
        source: What it does.

    Returns:
        Its path.
    """
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(source)}", encoding="utf-8")
    path.chmod(0o755)
    return path
