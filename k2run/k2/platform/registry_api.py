"""The registry's HTTP API: Confluent's paths, over the state that all nodes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from k2run.k2.platform.program import log
from k2run.k2.platform.registry_requests import RefusedError, Registry
from k2run.k2.platform.registry_store import StateError, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


def application(store: Store, level: str) -> Starlette:
    """The API over a state.

    Args:
        store: The state.
        level: The compatibility of the registry while none was set.
    """
    registry, numbers = Registry(store, level), CollectorRegistry()
    requests = Counter("k2_schema_registry_requests", "Requests answered", ["code"], registry=numbers)
    subjects = Gauge("k2_schema_registry_subjects", "Subjects (no sample: the state cannot be read)", registry=None)

    def serve(path: str, **verbs: Callable[[Request], Any]) -> Route:
        async def answer(request: Request) -> Response:
            # A route that names another verb has been answered with 405 by Starlette.
            request.state.body = await request.body()
            verb = "GET" if request.method == "HEAD" else request.method
            response = await run_in_threadpool(_answered, verbs[verb], request)
            requests.labels(code=response.headers.get("X-Error-Code", str(response.status_code))).inc()
            return response

        return Route(path, answer, methods=list(verbs))

    def metrics(_request: Request) -> Response:
        known = _count(store)
        text = generate_latest(numbers)
        if known is not None:
            shown = CollectorRegistry()
            subjects.set(known)
            shown.register(subjects)
            text += generate_latest(shown)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    subject, version = "/subjects/{subject}", "/subjects/{subject}/versions/{version}"
    schema = "/schemas/ids/{number}"
    compatible = "/compatibility/subjects/{subject}/versions"
    return Starlette(
        routes=[
            serve("/", GET=lambda _: {}),
            Route("/metrics", metrics, methods=["GET"]),
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
            serve("/config", GET=registry.get_config, PUT=registry.put_config, DELETE=registry.delete_config),
            serve("/config/{subject}", GET=registry.get_config, PUT=registry.put_config, DELETE=registry.delete_config),
            serve("/mode", GET=registry.get_mode, PUT=registry.put_mode),
            serve("/mode/{subject}", GET=registry.get_mode, PUT=registry.put_mode, DELETE=registry.delete_mode),
            serve("/contexts", GET=lambda _: ["."]),
            serve("/v1/metadata/id", GET=lambda _: {"id": "", "scope": {"path": [], "clusters": {}}}),
            serve("/v1/metadata/version", GET=lambda _: {"version": "k2run", "commitId": ""}),
        ],
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
