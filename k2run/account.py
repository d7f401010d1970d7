"""Whose process this is, by a name that always exists."""

from __future__ import annotations

import getpass
import os
import pwd


def account_name() -> str:
    """The name of this account, as its environment or the system has it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return name_of(os.getuid())


def name_of(account: int) -> str:
    """The name of an account; its number, `uid-1000`, where the system has no name for it, as in containers."""
    try:
        return pwd.getpwuid(account).pw_name
    except KeyError:
        return f"uid-{account}"
