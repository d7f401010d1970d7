"""What `validate` finds in a stack file beyond its form: connections, and programs and files that are not there."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import fields

from k2run.language.problems import Problem, did_you_mean
from k2run.language.quantities import decode_quantity
from k2run.stack.model import RunBy
from k2run.stack.validation import place_of, without_templates

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from k2run.actions.connection import Connection
    from k2run.language.document import Document, Trail
    from k2run.stack.model import Service

_OWN = "own values belong under `vars:`, and a part of the platform that runbooks only `require` under `services:`"


def connection_problems(document: Document, kinds: Mapping[str, type[Connection]]) -> Iterator[Problem]:
    """Connections that no action asks for, and settings that they do not have, lack, or cannot take.

    Args:
        document: The stack file.
        kinds: The connections that actions ask for, by their key.
    """
    for key, settings in (document.data.get("connections") or {}).items():
        trail = ("connections", key)
        if key not in kinds:
            hint = did_you_mean(str(key), kinds) or _OWN
            yield document.problem(
                "K204", f"no action uses a connection `{key}`", trail, key=True, expected=", ".join(kinds), hint=hint
            )
        else:
            yield from _settings(document, trail, settings, kinds[key])


def _settings(document: Document, trail: Trail, settings: dict[str, Any], kind: type[Connection]) -> Iterator[Problem]:
    known = {field.encode_name: field for field in fields(kind)}
    for name, value in settings.items():
        if name not in known:
            yield document.problem(
                "K204",
                f"`{trail[-1]}` has no setting `{name}`",
                (*trail, name),
                key=True,
                expected=", ".join(known),
                hint=did_you_mean(str(name), known),
            )
            continue
        plain = without_templates(value)
        if plain is None:
            continue
        try:
            msgspec.convert(plain, known[name].type, dec_hook=decode_quantity, strict=False)
        except msgspec.ValidationError as error:
            said, at = place_of(error, (*trail, name))
            yield document.problem("K203", said, at)
    for name, field in known.items():
        if name not in settings and field.default is NODEFAULT and field.default_factory is NODEFAULT:
            yield document.problem("K202", f"`{trail[-1]}` needs `{name}`", trail, key=True, expected=", ".join(known))


def fault_problems(document: Document, known: Collection[str]) -> Iterator[Problem]:
    """Faults that the stack allows and that are not there.

    Args:
        document: The stack file.
        known: The names of all faults.
    """
    for index, pattern in enumerate(document.data.get("faults") or ()):
        if not any(fnmatchcase(name, pattern) for name in known):
            adapters = sorted({f"{name.split('.')[0]}.*" for name in known})
            hint = did_you_mean(pattern, [*known, *adapters]) or f"`k2run doc` lists them: {', '.join(adapters)}"
            yield document.problem("K501", f"there is no fault `{pattern}`", ("faults", index), hint=hint)


def file_problems(document: Document, path: Path) -> Iterator[Problem]:
    """Files that the stack file names and that are not there.

    Args:
        document: The stack file.
        path: Where it is: what it names is looked for from its folder.
    """
    for key, what in (("compose", "compose file"), ("data_path", "runbook")):
        name = document.data.get(key)
        if isinstance(name, str) and not (path.absolute().parent / name).is_file():
            folder = (path.absolute().parent / name).parent
            near = [file.name for file in folder.glob("*.y*ml")] if folder.is_dir() else []
            hint = did_you_mean(Path(name).name, near) or "the path is taken from the stack file's folder"
            yield document.problem("K501", f"there is no {what} {name}", (key,), hint=hint)


def program_problems(document: Document, path: Path, service: Service, state: Path) -> Iterator[Problem]:
    """What a process could not be started with: its program, its working directory, files that lie elsewhere.

    A program that is declared as `program:` may be missing: the service is then not applicable.

    Args:
        document: The stack file.
        path: Where it is.
        service: The service, filled in.
        state: The stack's state folder, which the first start makes.
    """
    if service.run is not RunBy.PROCESS or not service.command:
        return
    trail: Trail = ("services", service.name)
    made = service.cwd.startswith(str(state))  # by the first start
    if service.cwd and not made and not Path(service.cwd).is_dir():
        hint = "" if service.cwd.startswith("/") else "a path from the stack file's folder begins with `{{ here }}/`"
        yield document.problem("K501", f"there is no working directory {service.cwd}", (*trail, "cwd"), hint=hint)
    if not service.program:
        yield from _program(document, (*trail, "command", 0), service)
    here = path.absolute().parent
    for index, word in enumerate(service.command):
        if not service.cwd and word and not word.startswith(("/", "-")) and (here / word).is_file():
            hint = f'write "{{{{ here }}}}/{word}", or set `cwd: "{{{{ here }}}}"`'
            said = f"`{word}` is not found from where {service.name} runs, the state folder of the stack"
            yield document.problem("K501", said, (*trail, "command", index), hint=hint)


def _program(document: Document, trail: Trail, service: Service) -> Iterator[Problem]:
    """A program that is neither a file nor on PATH."""
    name = service.command[0]
    if name == "python" or ("/" in name and not name.startswith("/")):
        return
    if which(name, path=service.env.get("PATH")) is None:
        where = "" if "/" in name else " on PATH"
        hint = f"install it; with `program: {name}` the service is not applicable where it is missing"
        yield document.problem("K501", f"there is no program `{name}`{where}", trail, hint=hint)
