"""Where a table's files are on this machine, as its metadata names them."""

from __future__ import annotations

from pathlib import Path

_SCHEME = "file:"


def local_path(location: str) -> Path:
    """The path of a location.

    A path is taken as it stands, after `file:` too: pyiceberg, which writes the files, decodes no `%20` either.

    Raises:
        ValueError: It is on another file system.
    """
    if location.startswith(_SCHEME):
        path = location.removeprefix(_SCHEME)
        return Path(path.removeprefix("//"))
    if "://" in location:
        raise ValueError(f"{location} is not on the local file system")
    return Path(location)
