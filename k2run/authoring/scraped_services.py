"""Services of a stack file out of the targets that a Prometheus scrapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from k2run.authoring.stack_draft import ServiceDraft, StackDraft, name_of
from k2run.errors import UsageError
from k2run.stack.model import RunBy

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWER_S = 10.0
"""Seconds that the Prometheus has to answer."""


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
            f"what answers at {url} is no Prometheus", hint="give its base URL: http://HOST:9090"
        ) from error
    found: list[Mapping[str, Any]] = targets
    return found


def add_targets(draft: StackDraft, url: str, targets: list[Mapping[str, Any]]) -> None:
    """Add what a Prometheus scrapes: metrics of services that are known already, and the others as services.

    Args:
        draft: What is known so far.
        url: The base URL of the Prometheus.
        targets: What it scrapes.
    """
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
                _service(name_of(job if jobs.count(job) == 1 else f"{job}-{instance}"), address.geturl())
            )


def _service(name: str, metrics: str) -> ServiceDraft:
    return ServiceDraft(
        name=name,
        run=RunBy.EXTERNAL,
        note="is reached and measured; say how it is run, and it can be started, stopped and broken",
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
