"""A node of the schema registry: Confluent's HTTP API for Avro schemas, over a state that all nodes share.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import argparse
import fcntl
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from k2run.k2.platform.program import LOOPBACK, give_up, log, require_free_port, take_port, web_server
from k2run.k2.platform.registry_requests import RefusedError, Registry
from k2run.k2.platform.registry_store import LEVELS, StateError, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


class _Paths:
    """The paths of the API, and what is counted of their answers."""

    def __init__(self, store: Store, level: str) -> None:
        self._store, self._registry, self._numbers = store, Registry(store, level), CollectorRegistry()
        self._requests = Counter("k2_schema_registry_requests", "Requests answered", ["code"], registry=self._numbers)
        self._subjects = Gauge(
            "k2_schema_registry_subjects", "Subjects (no sample: the state cannot be read)", registry=None
        )

    def routes(self) -> list[Route]:
        """Each path with what it answers to each verb."""
        serve, registry = self._serve, self._registry
        subject, version = "/subjects/{subject}", "/subjects/{subject}/versions/{version}"
        schema = "/schemas/ids/{number}"
        compatible = "/compatibility/subjects/{subject}/versions"
        configure = {"GET": registry.get_config, "PUT": registry.put_config, "DELETE": registry.delete_config}
        return [
            serve("/", GET=lambda _: {}),
            Route("/metrics", self._metrics, methods=["GET"]),
            serve("/subjects", GET=registry.get_subjects),
            serve(subject, POST=registry.post_lookup, DELETE=registry.delete_subject),
            serve(f"{subject}/versions", GET=registry.get_versions, POST=registry.post_version),
            serve(version, GET=registry.get_version, DELETE=registry.delete_version),
            serve(f"{version}/schema", GET=registry.get_text),
            serve(f"{version}/referencedby", GET=registry.get_referencing),
            serve("/schemas", GET=registry.get_schemas),
            serve("/schemas/types", GET=lambda _: ["AVRO"]),
            serve(schema, GET=registry.get_schema),
            serve(f"{schema}/schema", GET=registry.get_schema_text),
            serve(f"{schema}/subjects", GET=registry.get_schema_subjects),
            serve(f"{schema}/versions", GET=registry.get_schema_versions),
            serve("/schemas/guids/{guid}", GET=registry.get_schema_by_guid),
            serve(compatible, POST=registry.post_compatible),
            serve(f"{compatible}/{{version}}", POST=registry.post_compatible),
            serve("/config", **configure),
            serve("/config/{subject}", **configure),
            serve("/mode", GET=registry.get_mode, PUT=registry.put_mode),
            serve("/mode/{subject}", GET=registry.get_mode, PUT=registry.put_mode, DELETE=registry.delete_mode),
            serve("/contexts", GET=lambda _: ["."]),
            serve("/v1/metadata/id", GET=lambda _: {"id": "", "scope": {"path": [], "clusters": {}}}),
            serve("/v1/metadata/version", GET=lambda _: {"version": "k2run", "commitId": ""}),
        ]

    def _serve(self, path: str, **verbs: Callable[[Request], Any]) -> Route:
        async def answer(request: Request) -> Response:
            # A route that names another verb has been answered with 405 by Starlette.
            request.state.body = await request.body()
            verb = "GET" if request.method == "HEAD" else request.method
            response = await run_in_threadpool(_answered, verbs[verb], request)
            self._requests.labels(code=response.headers.get("X-Error-Code", str(response.status_code))).inc()
            return response

        return Route(path, answer, methods=list(verbs))

    def _metrics(self, _request: Request) -> Response:
        known = _count(self._store)
        text = generate_latest(self._numbers)
        if known is not None:
            shown = CollectorRegistry()
            self._subjects.set(known)
            shown.register(self._subjects)
            text += generate_latest(shown)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def application(store: Store, level: str) -> Starlette:
    """The API over a state; `level` is the compatibility of the registry while none was set."""
    return Starlette(
        routes=_Paths(store, level).routes(),
        exception_handlers={
            404: lambda *_: _said({"error_code": 404, "message": "HTTP 404 Not Found"}, 404),
            405: lambda *_: _said({"error_code": 405, "message": "HTTP 405 Method Not Allowed"}, 405),
        },
    )


def _answered(do: Callable[[Request], Any], request: Request) -> Response:
    try:
        return _said(do(request))
    except RefusedError as refused:
        return _said({"error_code": refused.code, "message": refused.message}, refused.status)
    except StateError as problem:
        log("registry_state_error", "error", error=problem)
        return _said({"error_code": 50001, "message": f"Error in the backend data store: {problem}"}, 500)


def _said(content: Any, status: int = 200) -> Response:
    headers = {"X-Error-Code": str(content["error_code"])} if status != 200 else {}  # noqa: PLR2004 - OK
    return Response(msgspec.json.encode(content), status, headers=headers, media_type=MEDIA_TYPE)


def _count(store: Store) -> int | None:
    try:
        with store.look():
            return len({entry.subject for entry in store.every()})
    except StateError:
        return None


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.registry", description=__doc__)
    parser.add_argument("--port", type=int, default=18081, help="port to answer on (default: 18081)")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on (default: this host alone)")
    parser.add_argument("--state", type=Path, required=True, help="file of the schemas, the same for every node")
    parser.add_argument("--compatibility", default="BACKWARD", help="level of a new registry (default: BACKWARD)")
    return parser


def open_state(path: Path) -> Store:
    """Open the state. One that cannot be read is moved aside, which is told, and the registry begins empty.

    Whoever writes registers its schemas when it starts; a consumer waits until the subject of its topic is there.
    """
    try:
        with _alone(path):
            try:
                store = Store(path)
            except StateError as problem:
                aside = _moved_aside(path)
                log("registry_state_moved_aside", "error", problem=problem, moved_to=aside)
                store = Store(path)
    except (OSError, StateError) as problem:
        give_up(f"the registry's state cannot be opened: {problem}")
    if store.created:
        log("registry_state_created", "warning", file=path, subjects=0)
    return store


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other node opens the state meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _moved_aside(path: Path) -> Path:
    """Where the state is now, its log beside it."""
    aside = path.with_name(f"{path.name}.unreadable-{time.time_ns()}")
    path.rename(aside)
    for more in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + more).rename(aside.with_name(aside.name + more))
    return aside


def main() -> None:
    """Serve until told to stop."""
    options = arguments().parse_args()
    require_free_port(options.port, options.host)
    started = time.monotonic()
    level = options.compatibility.upper()
    if level not in LEVELS:
        give_up(f"--compatibility {options.compatibility}: expected one of {', '.join(LEVELS)}")
    server = web_server(application(open_state(options.state), level), options.port, options.host)
    taken = take_port(options.port, options.host)
    log(
        "registry_listening",
        url=f"http://{options.host}:{options.port}",
        state=options.state,
        seconds=time.monotonic() - started,
    )
    server.run([taken])
    log("registry_stopped")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
