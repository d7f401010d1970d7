"""Checks what stands in a stack file, before anything in it is filled in; every problem at once, each at its place.

Long because every check of a stack file is on this page, that of its connections, programs and files included.
"""

from __future__ import annotations

import re
from enum import Enum
from fnmatch import fnmatchcase
from inspect import getdoc
from pathlib import Path
from shutil import which
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import fields

from k2run.files import name_objection
from k2run.language.problems import Problem, did_you_mean
from k2run.language.quantities import Duration, decode_quantity
from k2run.stack.model import ROLES, Chart, Ready, RunBy, Service, role_of, role_problems
from k2run.stack.templates import has_template

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from k2run.actions.connection import Connection
    from k2run.language.document import Document, Trail

KEYS = (
    *("stack", "name", "title", "platform", "protected", "allow", "faults", "compose", "data_path", "vars"),
    *("roles", "connections", "services", "charts"),
)
VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
OWN_COMMANDS = ("start", "stop", "status", "logs")
TEXTS = ("command", *OWN_COMMANDS, "env", "headers")
SERVICE_KEYS = tuple(field for field in Service.__struct_fields__ if field != "name")

_AT = re.compile(r"(?P<said>.*) - at `\$(?P<path>.*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")


def problems_of(document: Document) -> list[Problem]:
    """What is wrong in a stack file."""
    data = document.data
    if not isinstance(data, dict):
        return [document.problem("K201", "a stack file is a mapping", (), expected="stack: 1", found=_kind(data))]
    return [
        *_unknown_keys(document, (), data, KEYS, "a stack file"),
        *_head(document, data),
        *(_names(document, data)),
        *_connections(document, data),
        *_services(document, data),
        *_roles(document, data),
        *_charts(document, data),
    ]


def place_of(error: msgspec.ValidationError, below: Trail) -> tuple[str, Trail]:
    """What msgspec said, and the trail to the value that it said it of."""
    match = _AT.fullmatch(str(error))
    if match is None:
        return str(error), below
    steps = [int(step["index"]) if step["index"] else step["key"] for step in _STEP.finditer(match["path"])]
    return match["said"], (*below, *(step for step in steps if step is not None))


def with_texts(form: dict[str, Any]) -> dict[str, Any]:
    """A service's settings with numbers as text where only text makes sense: `command: [serve, --port, 8000]`."""
    texts: dict[str, Any] = {key: _texts(form[key]) for key in TEXTS if key in form}
    return {**form, **texts}


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _text(entry) for key, entry in value.items()}
    return value


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _head(document: Document, data: dict[str, Any]) -> Iterator[Problem]:
    version = data.get("stack")
    if "stack" not in data:
        yield document.problem("K202", "`stack: 1` is missing", (), hint="it says that this is a stack file, version 1")
    elif version != VERSION or isinstance(version, bool):
        yield document.problem("K203", "this k2run reads version 1", ("stack",), expected="1", found=str(version))
    name = data.get("name", "stack")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name_objection(name):
        yield document.problem(
            "K203", "a stack's name is letters, digits, `-`, `_` and `.`", ("name",), found=str(name)
        )
    for key, kind, said in (("title", str, "text"), ("platform", str, "text"), ("protected", bool, "true or false")):
        if key in data and not isinstance(data[key], kind):
            yield document.problem("K203", f"`{key}` is {said}", (key,), expected=said, found=_kind(data[key]))
    for key, what in (("compose", "a compose file"), ("data_path", "a runbook")):
        if key in data and not isinstance(data[key], str):
            yield document.problem("K203", f"`{key}` is the path of {what}", (key,), found=_kind(data[key]))
    for key, what in (("allow", "runbook names"), ("faults", "names of faults, such as service.kill or service.*")):
        listed = data.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
            yield document.problem("K203", f"`{key}` is a list of {what}", (key,), found=_kind(listed))


def _names(document: Document, data: dict[str, Any]) -> Iterator[Problem]:
    declared = data.get("vars") or {}
    if not isinstance(declared, dict):
        yield document.problem("K203", "`vars` is a mapping of names to values", ("vars",), found=_kind(declared))
        return
    for name in declared:
        if not str(name).isidentifier():
            yield document.problem("K203", f"`{name}` cannot be a name in `{{{{ }}}}`", ("vars", name), key=True)


def _connections(document: Document, data: dict[str, Any]) -> Iterator[Problem]:
    declared = data.get("connections") or {}
    if not isinstance(declared, dict):
        yield document.problem("K203", "`connections` is a mapping", ("connections",), found=_kind(declared))
        return
    for key, settings in declared.items():
        if not isinstance(settings, dict):
            yield document.problem(
                "K203", f"the settings of {key} are a mapping", ("connections", key), found=_kind(settings)
            )


def _services(document: Document, data: dict[str, Any]) -> Iterator[Problem]:
    declared = data.get("services") or {}
    if not isinstance(declared, dict):
        yield document.problem("K203", "`services` is a mapping of names", ("services",), found=_kind(declared))
        return
    for name, form in declared.items():
        trail = ("services", name)
        if not isinstance(name, str) or not NAME.fullmatch(name) or name_objection(name):
            yield document.problem(
                "K203", "a service's name is letters, digits, `-`, `_` and `.`", trail, key=True, found=str(name)
            )
        elif not isinstance(form, dict):
            yield document.problem("K203", f"the service {name} is a mapping", trail, found=_kind(form))
        else:
            yield from _service(document, trail, form, declared)


def _roles(document: Document, data: dict[str, Any]) -> Iterator[Problem]:
    services, declared = data.get("services"), data.get("roles") or {}
    yield from role_problems(document, declared, services if isinstance(services, dict) else ())
    for name, value in declared.items() if isinstance(declared, dict) else ():
        plain = without_templates(value)
        whole = plain == value and value not in (None, {}, [])  # the rest is told when it is filled in
        if name in ROLES and whole:
            yield from _wrong_role(document, name, value)


def _wrong_role(document: Document, name: str, value: Any) -> Iterator[Problem]:
    kind, trail = ROLES[name].kind, ("roles", name)
    if isinstance(value, dict) and issubclass(kind, Struct):
        known = kind.__struct_fields__
        yield from _unknown_keys(document, trail, value, known, f"the role `{name}`")
        value = {key: entry for key, entry in value.items() if key in known}
    try:
        role_of(name, value)
    except (msgspec.ValidationError, ValueError) as error:
        said, at = place_of(error, trail) if isinstance(error, msgspec.ValidationError) else (str(error), trail)
        yield document.problem("K203", f"`{name}`: {said}", at, hint=ROLES[name].help)


def _charts(document: Document, data: dict[str, Any]) -> Iterator[Problem]:
    declared = data.get("charts") or []
    if not isinstance(declared, list):
        yield document.problem("K203", "`charts` is a list", ("charts",), found=_kind(declared))
        return
    services = data.get("services")
    for index, form in enumerate(declared):
        trail: Trail = ("charts", index)
        if not isinstance(form, dict):
            yield document.problem("K203", "a chart is a mapping", trail, found=_kind(form))
            continue
        yield from _unknown_keys(document, trail, form, Chart.__struct_fields__, "a chart")
        for key in ("title", "service", "metric"):
            if key not in form:
                yield document.problem("K202", f"a chart needs `{key}`", trail, key=True)
        service = form.get("service")
        if isinstance(service, str) and isinstance(services, dict) and service not in services:
            hint = did_you_mean(service, map(str, services))
            yield document.problem("K501", f"there is no service {service!r}", (*trail, "service"), hint=hint)
        known = {"title": "", "service": "", "metric": "", **(without_templates(form) or {})}
        try:
            msgspec.convert({key: known[key] for key in known if key in Chart.__struct_fields__}, Chart)
        except msgspec.ValidationError as error:
            said, at = place_of(error, trail)
            yield document.problem("K203", said, at)


def _ready_url(document: Document, trail: Trail, url: Any, base: Any) -> Iterator[Problem]:
    """What can be seen of a `ready: {http: …}` before it is filled in: it is a URL, not the path of one."""
    if isinstance(url, str) and "{{" not in url and not url.lower().startswith(("http://", "https://")):
        whole = f"{base.rstrip('/')}/{url.lstrip('/')}" if isinstance(base, str) and base else "http://127.0.0.1:PORT/"
        yield document.problem("K202", f"`ready: {{http: {url}}}` is no URL", trail, expected=whole)


def _service(document: Document, trail: Trail, form: dict[str, Any], others: Iterable[str]) -> Iterator[Problem]:
    yield from _unknown_keys(document, trail, form, SERVICE_KEYS, "a service")
    ready = form.get("ready")
    if isinstance(ready, dict):
        yield from _unknown_keys(document, (*trail, "ready"), ready, Ready.__struct_fields__, "`ready`")
        if len(ready.keys() & {"tcp", "http", "postgres"}) != 1:
            yield document.problem(
                "K202",
                "`ready` needs one of `tcp`, `http` and `postgres`",
                (*trail, "ready"),
                key=True,
                expected="{tcp: HOST:PORT}",
            )
        yield from _ready_url(document, (*trail, "ready", "http"), ready.get("http"), form.get("url"))
    yield from _wrong_types(document, trail, form)
    run = form.get("run", RunBy.EXTERNAL)
    yield from _own_commands(document, trail, form, run)
    for kind, key in ((RunBy.PROCESS, "command"), (RunBy.DOCKER, "container"), (RunBy.SSH, "host")):
        if run == kind and not form.get(key):
            yield document.problem("K202", f"a service with `run: {kind}` needs `{key}`", trail, key=True)
    needs = form.get("needs")
    for index, needed in enumerate(needs if isinstance(needs, list) else ()):
        if isinstance(needed, str) and needed not in others:
            hint = did_you_mean(needed, map(str, others))
            yield document.problem("K501", f"there is no service {needed!r}", (*trail, "needs", index), hint=hint)


def _own_commands(document: Document, trail: Trail, form: dict[str, Any], run: Any) -> Iterator[Problem]:
    """Commands of its own are for services that k2run does not run itself, and something must show these."""
    given = [key for key in OWN_COMMANDS if key in form]
    if run in {RunBy.PROCESS, RunBy.DOCKER}:
        hint = f"leave it out, or say `run: {RunBy.EXTERNAL}`"
        for key in given:
            yield document.problem(
                "K202", f"k2run runs this service itself: `{key}` has no use", (*trail, key), key=True, hint=hint
            )
    elif {"start", "stop"} & form.keys() and not {"status", "ready", "ports"} & form.keys():
        hint = "without one of them no one can see whether it was started"
        yield document.problem(
            "K202", "`start` and `stop` need a `status` command or `ready`", trail, key=True, hint=hint
        )
    if "host" in form and run != RunBy.SSH:
        hint = f"say `run: {RunBy.SSH}`"
        yield document.problem("K202", "`host` is for services on other hosts", (*trail, "host"), key=True, hint=hint)


def _wrong_types(document: Document, trail: Trail, form: dict[str, Any]) -> Iterator[Problem]:
    """One by one, so that each wrong value is told; values still to be filled in are left to their reading."""
    for key, value in form.items():
        if key not in SERVICE_KEYS:
            continue
        plain = without_templates(value)
        if isinstance(plain, dict) and key == "ready":
            plain = {name: entry for name, entry in plain.items() if name in Ready.__struct_fields__}
        if plain is None and value is not None:
            continue
        try:
            msgspec.convert(with_texts({key: plain}), Service, dec_hook=decode_quantity, strict=False)
        except msgspec.ValidationError as error:
            said, at = place_of(error, trail)
            yield document.problem("K203", said, at) if key != "run" else _wrong_run(document, at, value)


def _wrong_run(document: Document, at: Trail, value: Any) -> Problem:
    hint = did_you_mean(str(value), RunBy)
    return document.problem("K203", f"a service cannot be run by {value!r}", at, expected=", ".join(RunBy), hint=hint)


def without_templates(value: Any) -> Any:
    """The value with everything left out that has to be filled in first."""
    if isinstance(value, str):
        return None if has_template(value) else value
    if isinstance(value, dict):
        kept = {key: without_templates(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if entry is not None or value[key] is None}
    if isinstance(value, list):
        return [_keep for entry in value if (_keep := without_templates(entry)) is not None or entry is None]
    return value


def _unknown_keys(
    document: Document, trail: Trail, found: dict[str, Any], known: Iterable[str], what: str
) -> Iterator[Problem]:
    for key in found:
        if key not in known:
            hint = did_you_mean(str(key), known)
            yield document.problem(
                "K204", f"{what} has no `{key}`", (*trail, key), key=True, expected=", ".join(known), hint=hint
            )


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")


TEMPLATE = {"type": "string", "pattern": r"\{\{"}
"""A value that is still to be filled in may stand wherever another kind of value is wanted."""

_ATTRIBUTE = re.compile(r"^ {4}(?P<name>\w+): (?P<words>.+)$", re.MULTILINE)


def stack_schema() -> dict[str, Any]:
    """What editors check and complete a stack file with."""
    service = _struct(Service, leave_out="name")
    for key in TEXTS:  # numbers are taken as text there
        where = "additionalProperties" if key in {"env", "headers"} else "items"
        service["properties"][key][where] = {"type": ["string", "number", "boolean"]}
    text, mapping = {"type": "string"}, {"type": "object"}
    name = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "k2run stack",
        "description": "Where the services of one environment are, and how they are run.",
        "type": "object",
        "required": ["stack"],
        "additionalProperties": False,
        "properties": {
            "stack": {"const": VERSION, "description": "Version of the stack file."},
            "name": {**name, "description": "Name of the stack; the file's name when missing."},
            "title": {**text, "description": "What people call it."},
            "platform": {**text, "description": "What it is a stack of; recoveries for another are not looked at."},
            "protected": {"type": "boolean", "description": "Refuse faults, destructive actions and changes of data."},
            "allow": {"type": "array", "items": text, "description": "Runbooks that may break it all the same."},
            "faults": {"type": "array", "items": text, "description": "Faults that may be injected; any when missing."},
            "compose": {**text, "description": "Compose file that makes the containers, from this file's folder."},
            "data_path": {
                **text,
                "description": "Runbook whose steps look whether data flows from end to end; from this folder.",
            },
            "vars": {
                **mapping,
                "propertyNames": {"pattern": r"^[^\W\d]\w*$"},
                "description": "Names for `{{ }}` in this file; `-e NAME=VALUE` wins over them.",
            },
            "roles": {
                **mapping,
                "propertyNames": {"pattern": r"^[^\W\d]\w*$"},
                "properties": {name: {**_value(role.kind), "description": role.help} for name, role in ROLES.items()},
                "description": "What plays each part that runbooks ask for, as `roles.NAME`.",
            },
            "connections": {
                **mapping,
                "additionalProperties": mapping,
                "description": "Settings by which actions reach each system, such as `kafka: {bootstrap: HOST:PORT}`.",
            },
            "services": {
                **mapping,
                "propertyNames": {"pattern": f"^{NAME.pattern}$"},
                "additionalProperties": service,
                "description": "The services of the stack.",
            },
            "charts": {
                "type": "array",
                "items": {**_struct(Chart), "required": ["title", "service", "metric"]},
                "description": "What the stack's page shows over time, the most telling first.",
            },
        },
    }


def _struct(kind: type[Struct], leave_out: str = "") -> dict[str, Any]:
    """The schema of a struct, with the descriptions of its docstring."""
    told = {line["name"]: line["words"] for line in _ATTRIBUTE.finditer(getdoc(kind) or "")}
    hints = get_type_hints(kind)
    properties = {
        name: {**_value(hints[name]), **({"description": told[name]} if name in told else {})}
        for name in kind.__struct_fields__
        if name != leave_out
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(kind: Any) -> dict[str, Any]:
    """The schema of a field; whatever is no text may still be a template that becomes it."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is list:
        return {"type": "array", "items": _value(inside[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _value(inside[1])}
    if origin is UnionType:
        return _value(inside[0])
    if kind is not Any and issubclass(kind, Struct):
        return _struct(kind)
    return _scalar(kind)


def _scalar(kind: Any) -> dict[str, Any]:
    if kind is Any:
        return {}
    if issubclass(kind, Duration):
        return {"type": "string", "examples": [Duration.example]}
    if issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    return {"type": "string"} if kind is str else {"anyOf": [{"type": "integer"}, TEMPLATE]}


_OWN = "own values belong under `vars:`, and a part of the platform that runbooks only `require` under `services:`"


def connection_problems(document: Document, kinds: Mapping[str, type[Connection]]) -> Iterator[Problem]:
    """Connections that no action asks for, and settings that they do not have, lack, or cannot take."""
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
    """Faults that the stack allows and that are not there."""
    for index, pattern in enumerate(document.data.get("faults") or ()):
        if not any(fnmatchcase(name, pattern) for name in known):
            adapters = sorted({f"{name.split('.')[0]}.*" for name in known})
            hint = did_you_mean(pattern, [*known, *adapters]) or f"`k2run doc` lists them: {', '.join(adapters)}"
            yield document.problem("K501", f"there is no fault `{pattern}`", ("faults", index), hint=hint)


def file_problems(document: Document, path: Path) -> Iterator[Problem]:
    """Files that the stack file at `path` names, from its folder, and that are not there."""
    for key, what in (("compose", "compose file"), ("data_path", "runbook")):
        name = document.data.get(key)
        if isinstance(name, str) and not (path.absolute().parent / name).is_file():
            folder = (path.absolute().parent / name).parent
            near = [file.name for file in folder.glob("*.y*ml")] if folder.is_dir() else []
            hint = did_you_mean(Path(name).name, near) or "the path is taken from the stack file's folder"
            yield document.problem("K501", f"there is no {what} {name}", (key,), hint=hint)


def program_problems(document: Document, path: Path, service: Service, state: Path) -> Iterator[Problem]:
    """What a process could not be started with: its program, its working directory, files that lie elsewhere.

    A program that is declared as `program:` may be missing: the service is then not applicable. So may a working
    directory in `state`, the stack's state folder, which the first start makes.
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
