"""Write commented starting points for runbooks: each is valid, lints clean and runs on the sandbox."""

from __future__ import annotations

import os
import re
from pathlib import Path

from k2run.errors import UsageError
from k2run.language.model import Kind

STARTS = Path(__file__).with_name("starts")
_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_PACKAGE = Path(__file__).parents[1]
SCHEMA = "runbook.schema.json"


def write_new(kind: str, name: str, *, folder: Path = Path("runbooks")) -> Path:
    """Write a new runbook and return its path.

    Args:
        kind: What it is for: one of the kinds of runbooks.
        name: Its name, in small letters and dashes; also that of its file.
        folder: Where to put it; made when it is not there.

    Raises:
        UsageError: The kind is unknown, the name is not valid, or the file exists.
    """
    if kind not in set(Kind):
        from k2run.language.problems import did_you_mean

        hint = did_you_mean(kind, list(Kind)) or f"one of {', '.join(Kind)}"
        raise UsageError(f"unknown kind of runbook {kind!r}", hint=hint)
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a valid runbook name", hint="use lower-case letters, digits and dashes: consumer-lag-high"
        )
    path = folder / f"{name}.yaml"
    if path.exists():
        raise UsageError(f"{path} already exists", hint="choose another name, or remove the file")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(starting_text(kind, name, path), encoding="utf-8")
    return path


def starting_text(kind: str, name: str, path: Path) -> str:
    """The text of a new runbook.

    Args:
        kind: Its kind.
        name: Its name.
        path: Where it will stand; the comments name it, and the editor's schema is given from there.
    """
    text = (STARTS / f"{kind}.yaml").read_text(encoding="utf-8")
    words = {
        "name": name,
        "title": re.sub("[-_]", " ", name).capitalize(),
        "owner": os.environ.get("USER") or "no owner yet",
        "file": str(path),
        "schema": schema_from(path.parent),
    }
    for word, value in words.items():
        text = text.replace(f"<{word}>", value)
    return text


def schema_from(folder: Path) -> str:
    """The path of the schema as editors find it from a folder; relative where it is in the same repository."""
    here = Path("schemas") / SCHEMA
    if here.is_file() and folder.resolve().is_relative_to(Path.cwd()):
        return Path(os.path.relpath(here, folder)).as_posix()
    shipped = (_PACKAGE / "_schemas" / SCHEMA, _PACKAGE.parent / "schemas" / SCHEMA)
    return next((file.as_uri() for file in shipped if file.is_file()), SCHEMA)
