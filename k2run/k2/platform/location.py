"""Where a table's files are, as its metadata names them."""

from __future__ import annotations

from pathlib import Path

_SCHEME = "file:"


def local_path(location: str) -> Path:
    """The path of a location on this machine.

    A path is taken as it stands, after `file:` too: pyiceberg, which writes the files, decodes no `%20` either.

    Raises:
        ValueError: It is on another file system.
    """
    if not is_local(location):
        raise ValueError(f"{location} is not on the local file system")
    return Path(store_path(location))


def is_local(location: str) -> bool:
    """Whether it is a file of this machine."""
    return location.startswith(_SCHEME) or "://" not in location


def store_path(location: str) -> str:
    """A location as Arrow's file systems name it: a path, or bucket and key."""
    if location.startswith(_SCHEME):
        return location.removeprefix(_SCHEME).removeprefix("//")
    return location.partition("://")[2] or location
