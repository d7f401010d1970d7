"""A stack file before it is written: services as a Compose file or a Prometheus has them, with notes for its author."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import Struct, field

from k2run.errors import UsageError
from k2run.stack.model import RunBy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
EXPLAINED = """\
# yaml-language-server: $schema={schema}
#
# {title}: which services it has, how each is run, how to tell that it is ready, and how actions reach it.
#   k2run validate {file}   finds every mistake
#   k2run status --stack {name}      checks every service
# docs/stacks.md has every key. Never write a secret here, only where it is: `secret('env:NAME')`.
stack: 1
name: {name}
title: {title}
# protected: true         # faults and changes of data are refused, but for the runbooks in `allow`
"""
ANSWER_S = 10.0
"""Seconds that the Prometheus has to answer."""
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


class ServiceDraft(Struct, kw_only=True):
    """A service as it was found.

    Attributes:
        run: Who runs it.
        note: Where it comes from, or what its author still has to say; a comment in the file.
        command: Of a process: program and arguments.
        container: Of a container: its name.
        ports: The ports at which this machine reaches it.
        inner_ports: Ports within its container, each with the one at which this machine reaches it.
        metrics: The URL of its metrics.
        needs: Services that are started before it.
    """

    name: str
    run: RunBy
    note: str = ""
    command: list[str] = []
    container: str = ""
    ports: list[int] = []
    inner_ports: dict[int, int] = field(default_factory=dict)
    url: str = ""
    metrics: str = ""
    ready: dict[str, Any] = field(default_factory=dict)
    needs: list[str] = []

    def lines(self) -> list[str]:
        """Its part of the stack file."""
        said = {
            "run": self.run.value,
            "command": self.command,
            "container": self.container,
            "ports": self.ports,
            "url": self.url,
            "metrics": self.metrics,
            "ready": self.ready,
            "needs": self.needs,
        }
        note = f"  # {self.note}" if self.note else ""
        return [
            f"  {in_yaml(self.name)}:{note}",
            *(f"    {key}: {in_yaml(value)}" for key, value in said.items() if value),
        ]


class StackDraft(Struct, kw_only=True):
    """A stack as it was found.

    Attributes:
        notes: A word on each connection.
        compose: Its compose file, from the stack file; empty when there is none.
    """

    services: list[ServiceDraft] = field(default_factory=list)
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    compose: str = ""

    def text(self, *, name: str, title: str, file: str, schema: str) -> str:
        """The stack file, with the address of the schema by which editors know it."""
        lines = EXPLAINED.format(name=name, title=in_yaml(title), file=file, schema=schema).splitlines()
        if self.compose:
            lines.append(f"compose: {in_yaml(self.compose)}")
        if self.connections:
            lines += ["", "connections:"]
        for key, settings in self.connections.items():
            note = f"  # {self.notes[key]}" if key in self.notes else ""
            lines += [f"  {key}:{note}", *(f"    {field}: {in_yaml(value)}" for field, value in settings.items())]
        lines += ["", "services:"]
        for service in self.services:
            lines += service.lines()
        return "\n".join(lines) + "\n"


def in_yaml(value: Any) -> str:
    """A value as YAML on one line."""
    import yaml

    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )


def name_of(text: str) -> str:
    """A text as the name of a service: `kafka/broker:1` is `kafka-broker-1`."""
    return _NOT_IN_NAMES.sub("-", text).strip("-._") or "service"


def read_targets(url: str) -> list[Mapping[str, Any]]:
    """The active targets of a Prometheus, as its API gives them.

    Raises:
        UsageError: Nothing answers there, or no Prometheus.
    """
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/v1/targets", params={"state": "active"}, timeout=ANSWER_S)
        answer.raise_for_status()
        targets = answer.json()["data"]["activeTargets"]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UsageError(
            f"no Prometheus answers at {url}: {error}", hint="give its base URL: http://HOST:9090"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{url} does not answer like a Prometheus", hint="give its base URL: http://HOST:9090"
        ) from error
    found: list[Mapping[str, Any]] = targets
    return found


def add_targets(draft: StackDraft, url: str, targets: list[Mapping[str, Any]]) -> None:
    """Add what a Prometheus scrapes: metrics of services that are known already, and the others as services."""
    draft.connections.setdefault("prometheus", {"url": url.rstrip("/")})
    jobs = [str(target["labels"].get("job", "")) for target in targets]
    for target, job in zip(targets, jobs, strict=True):
        address = urlsplit(str(target["scrapeUrl"]))
        known = _known(draft, address.hostname or "", address.port or 80)
        if known is not None:
            service, outer = known
            service.metrics = service.metrics or address._replace(netloc=f"localhost:{outer}").geturl()
        elif address.geturl() not in {service.metrics for service in draft.services}:
            instance = str(target["labels"].get("instance", address.netloc))
            draft.services.append(
                _scraped(name_of(job if jobs.count(job) == 1 else f"{job}-{instance}"), address.geturl())
            )


def _scraped(name: str, metrics: str) -> ServiceDraft:
    return ServiceDraft(
        name=name,
        run=RunBy.EXTERNAL,
        note="is reachable and measured; say how it is run, and k2run can start, stop and break it",
        url=urlsplit(metrics)._replace(path="", query="").geturl(),
        metrics=metrics,
        ready={"http": metrics},
    )


def _known(draft: StackDraft, host: str, port: int) -> tuple[ServiceDraft, int] | None:
    """The service behind a scraped address, with the port at which this machine reaches it."""
    for service in draft.services:
        if host in {service.name, service.container} and port in service.inner_ports:
            return service, service.inner_ports[port]
        if host in {"localhost", "127.0.0.1", "host.docker.internal"} and port in service.ports:
            return service, port
    return None


def read_compose(path: Path) -> StackDraft:
    """The services of a Compose file.

    Raises:
        UsageError: It cannot be read, or has no services.
    """
    import yaml

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
        draft.note = "no port to probe: Docker says whether it is ready"
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
