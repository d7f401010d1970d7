"""Parts of k2run that are installed only by those who want them."""

from __future__ import annotations

from importlib.util import find_spec

from k2run.errors import NotApplicable, Refused


def require(extra: str, *modules: str) -> None:
    """Complain when a module of an extra is not installed.

    Raises:
        NotApplicable: With what to install.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise NotApplicable(f"{' and '.join(missing)} is not installed", hint=f"pip install 'k2run[{extra}]'")


def require_client(extra: str, *modules: str) -> None:
    """Complain when the client library of a system is not installed: the system may be there, and cannot be asked.

    Raises:
        Refused: With what to install.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        named = " and ".join(missing)
        raise Refused(f"the client library {named} is not installed", hint=f"pip install 'k2run[{extra}]'")
