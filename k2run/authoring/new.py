"""Write commented starting points for runbooks about the sandbox or one's own stack; each is valid and lints clean."""

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
RUNBOOKS = Path("runbooks")
RECOVERIES = RUNBOOKS / "recovery"
"""Where `diagnose` looks for what it can recognise."""


def write_new(kind: str, name: str, *, folder: Path | None = None, stack: str = "") -> Path:
    """Write a new runbook and return its path.

    Args:
        kind: What it is for: one of the kinds of runbooks.
        name: Its name, in small letters and dashes; also that of its file.
        folder: Where to put it; made when it is not there. By default where its kind is looked for.
        stack: The stack whose services it is about; the embedded platform when empty.

    Raises:
        UsageError: The kind is unknown, the name is not valid, or the file exists.
        StackInvalid: There is no such stack.
        RunbookInvalid: The stack file has problems.
    """
    if kind not in set(Kind):
        from k2run.language.problems import did_you_mean

        kinds = [*Kind, "stack"]
        hint = did_you_mean(kind, kinds) or f"one of {', '.join(kinds)}"
        raise UsageError(f"unknown kind of runbook {kind!r}", hint=hint)
    valid_name(name)
    if folder is None:
        folder = RECOVERIES if stack and kind == Kind.RECOVERY else RUNBOOKS
    path = folder / f"{name}.yaml"
    refuse_to_overwrite(path)
    text = starting_text(kind, name, path, stack)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refuse_to_overwrite(path: Path) -> None:
    """Refuse a path where a file is.

    Raises:
        UsageError: One is there.
    """
    if path.exists():
        raise UsageError(f"{path} already exists", hint="choose another name, or remove the file")


def valid_name(name: str) -> None:
    """Refuse a name that is not one of a file in small letters.

    Raises:
        UsageError: It is none.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a valid name", hint="use lower-case letters, digits and dashes: consumer-lag-high"
        )


def title_of(name: str) -> str:
    """A name as a title: `consumer-lag-high` is `Consumer lag high`."""
    return re.sub("[-_]", " ", name).capitalize()


def starting_text(kind: str, name: str, path: Path, stack: str = "") -> str:
    """The text of a new runbook.

    Args:
        kind: Its kind.
        name: Its name.
        path: Where it will stand; the comments name it, and the editor's schema is given from there.
        stack: The stack whose services it is about; the embedded platform when empty.
    """
    words = {
        "name": name,
        "title": title_of(name),
        "owner": os.environ.get("USER") or "no owner yet",
        "file": str(path),
        "schema": schema_from(path.parent),
    }
    if stack:
        from k2run.authoring.new_for_stack import text_for_stack

        return text_for_stack(kind, words, stack, path.parent)
    text = (STARTS / f"{kind}.yaml").read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"<{word}>", value)
    return text


def schema_from(folder: Path, schema: str = SCHEMA) -> str:
    """The path of a schema as editors find it from a folder; relative where it is in the same repository."""
    here = Path("schemas") / schema
    if here.is_file() and folder.resolve().is_relative_to(Path.cwd()):
        return Path(os.path.relpath(here, folder)).as_posix()
    shipped = (_PACKAGE / "_schemas" / schema, _PACKAGE.parent / "schemas" / schema)
    return next((file.as_uri() for file in shipped if file.is_file()), schema)
