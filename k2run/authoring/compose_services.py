"""Services of a stack file out of a Compose file: names, containers, ports, health checks, order, connections."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Any

import yaml

from k2run.authoring.stack_draft import ServiceDraft, StackDraft, name_of
from k2run.errors import UsageError
from k2run.stack.model import RunBy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_VARIABLE = re.compile(r"\$(?:(?P<plain>\w+)|\{(?P<name>\w+)(?::?(?P<how>[-?+])(?P<rest>[^}]*))?\})")
_URL = re.compile(r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0)(?::(?P<port>\d+))?(?P<path>/[^\s\"'|;]*)?")
_WEB = frozenset({80, 443, 3000, 5000, 8000, 8080, 8081, 8888, 9090, 9091})
"""Ports at which a service is taken to speak HTTP."""
_KNOWN = {
    "kafka": (("kafka", "redpanda"), 9092),
    "postgres": (("postgres", "timescale", "postgis"), 5432),
    "prometheus": (("prom/prometheus", "prometheus"), 9090),
    "schema_registry": (("schema-registry", "apicurio", "karapace"), 8081),
    "s3": (("minio", "seaweedfs"), 9000),
    "grafana": (("grafana/grafana", "grafana"), 3000),
}
"""Connections by what stands in a service's image, with the port within its container."""


def read_compose(path: Path) -> StackDraft:
    """The services of a Compose file.

    Args:
        path: The file.

    Raises:
        UsageError: It cannot be read, or has no services.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="give the path of a compose file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not YAML: {str(error).splitlines()[0]}", hint="`docker compose config` shows where"
        ) from error
    services = said.get("services") if isinstance(said, dict) else None
    if not isinstance(services, dict) or not services:
        raise UsageError(f"{path} has no `services`", hint="give the path of a compose file")
    project = str(_filled(said.get("name") or "")) or re.sub(r"[^a-z0-9_-]", "", path.resolve().parent.name.lower())
    draft = StackDraft()
    for name, form in services.items():
        if isinstance(form, dict):
            draft.services.append(_service(str(name), _filled(form), project))
            _connect(draft, draft.services[-1], str(form.get("image") or ""))
    known = {service.name for service in draft.services}
    for service in draft.services:
        service.needs = [name for name in service.needs if name in known]
    return draft


def _service(name: str, form: Mapping[str, Any], project: str) -> ServiceDraft:
    inner = dict(_ports(form.get("ports") or []))
    draft = ServiceDraft(
        name=name_of(name),
        run=RunBy.DOCKER,
        container=str(form.get("container_name") or f"{project}-{name}-1"),
        ports=list(inner.values()),
        inner_ports=inner,
        needs=[name_of(each) for each in form.get("depends_on") or []],
    )
    web = next((outer for port, outer in inner.items() if port in _WEB), 0)
    if web:
        draft.url = f"http://localhost:{web}"
    draft.ready = _ready(form.get("healthcheck") or {}, inner)
    if not draft.ready and not draft.ports:
        draft.note = "no port to look at: whether it is ready is what Docker says"
    return draft


def _ready(check: Mapping[str, Any], inner: Mapping[int, int]) -> dict[str, Any]:
    """The address that a health check asks, as this machine reaches it."""
    test = check.get("test") or ""
    found = _URL.search(test if isinstance(test, str) else shlex.join(map(str, test)))
    if found is None:
        return {}
    outer = inner.get(int(found["port"] or 80))
    return {"http": f"http://localhost:{outer}{found['path'] or '/'}"} if outer else {}


def _ports(said: list[Any]) -> Iterator[tuple[int, int]]:
    """Ports within the container, and where this machine reaches each; those without a fixed one are left out."""
    for entry in said:
        if isinstance(entry, dict):
            outer, inner, protocol = entry.get("published"), entry.get("target"), entry.get("protocol", "tcp")
        else:
            text, _, protocol = str(entry).partition("/")
            *before, inner = text.rsplit(":", 2 if text.count(":") > 1 else 1)
            outer = before[-1] if before else None
        if protocol in {"tcp", ""} and str(outer).isdigit() and str(inner).isdigit():
            yield int(str(inner)), int(str(outer))


def _connect(draft: StackDraft, service: ServiceDraft, image: str) -> None:
    for key, (words, inner) in _KNOWN.items():
        outer = service.inner_ports.get(inner)
        if key in draft.connections or not outer or not any(word in image for word in words):
            continue
        if key == "grafana" and "prom" in image:
            continue
        draft.connections[key], draft.notes[key] = _settings(key, outer, image)
        return


def _settings(key: str, port: int, image: str) -> tuple[dict[str, Any], str]:
    note = f"{image}"
    if key == "kafka":
        return {"bootstrap": f"localhost:{port}"}, f"{note}; the address that it advertises must lead here too"
    if key == "postgres":
        settings = {"host": "localhost", "port": port, "database": "postgres", "user": "postgres"}
        return {
            **settings,
            "password": "{{ secret('env:POSTGRES_PASSWORD') }}",
        }, f"{note}; set database and user to yours"
    if key == "s3":
        keys = {key: f"{{{{ secret('env:S3_{key.upper()}') }}}}" for key in ("access_key", "secret_key")}
        return {"endpoint": f"http://localhost:{port}", **keys}, note
    return {"url": f"http://localhost:{port}"}, note


def _filled(value: Any) -> Any:
    """A value with the variables of the environment filled in, as Compose does."""
    if isinstance(value, dict):
        return {key: _filled(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry) for entry in value]
    return _VARIABLE.sub(_variable, value) if isinstance(value, str) else value


def _variable(found: re.Match[str]) -> str:
    value = os.environ.get(found["plain"] or found["name"], "")
    if found["how"] == "+":
        return found["rest"] if value else ""
    return value or (found["rest"] or "" if found["how"] == "-" else "")
