"""The Iceberg REST catalog: the specification's paths over pyiceberg's SQL catalog, whose database is PostgreSQL.

Long because it is one table of paths and what each answers.

A commit is one UPDATE that names the metadata file it replaces, so of two at a time one is told of its conflict (409).
What cannot be known, because the database went away in the middle, is said as such (500), as the specification has it;
what certainly did not happen is 503.

Specification: https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from k2run.k2.platform import store_files
from k2run.k2.platform.api_answers import Measurements, Observed, as_json
from k2run.k2.platform.program import give_up, log, require_free_port, stop_signal, take_port, wait_until, web_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyiceberg.catalog.sql import SqlCatalog
    from starlette.requests import Request

VERSION = "1.0.0"
CATALOG = "rest_backend"  # the name in the database, as K2's own catalog has it
_SEPARATOR = "\x1f"
_KEPT_METADATA = 16
_LATE_S = 8.0  # the consumer waits for 10
_ENDPOINTS = (
    "GET /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "DELETE /v1/{prefix}/namespaces/{namespace}",
    "POST /v1/{prefix}/namespaces/{namespace}/properties",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/register",
    "POST /v1/{prefix}/tables/rename",
)
_FIND = (
    "SELECT metadata_location FROM iceberg_tables "
    "WHERE catalog_name = :catalog AND table_namespace = :namespace AND table_name = :name"
)


class RefusedError(Exception):
    """A request that is answered with an error: HTTP status, the specification's type, and one sentence."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


class Endpoints:
    """One method per path of the specification. They run in threads, for the database and the store make them wait."""

    def __init__(self, catalog: SqlCatalog) -> None:
        self._catalog = catalog
        self._kept: OrderedDict[str, bytes] = OrderedDict()  # by location; a metadata file never changes
        self._keeping = threading.Lock()

    def config(self, _request: Request, _said: Any) -> Response:
        """What clients are to know beforehand. It says nothing about the database."""
        return as_json({"defaults": {}, "overrides": {}, "endpoints": _ENDPOINTS})

    def namespaces(self, request: Request, _said: Any) -> Response:
        """The namespaces below another, or all of the first level."""
        below = _space(request.query_params.get("parent", ""))
        return as_json({"namespaces": self._catalog.list_namespaces(below)})

    def create_namespace(self, _request: Request, said: Any) -> Response:
        """Make a namespace."""
        space, properties = tuple(said["namespace"]), said.get("properties") or {}
        self._catalog.create_namespace(space, properties)
        return as_json({"namespace": space, "properties": properties})

    def namespace(self, request: Request, _said: Any) -> Response:
        """A namespace's properties."""
        space = _space(request.path_params["namespace"])
        properties = {
            name: value for name, value in self._catalog.load_namespace_properties(space).items() if name != "exists"
        }
        return as_json({"namespace": space, "properties": properties})

    def drop_namespace(self, request: Request, _said: Any) -> Response:
        """Remove a namespace without tables."""
        self._catalog.drop_namespace(_space(request.path_params["namespace"]))
        return Response(status_code=204)

    def change_namespace(self, request: Request, said: Any) -> Response:
        """Set and remove properties of a namespace."""
        space = _space(request.path_params["namespace"])
        done = self._catalog.update_namespace_properties(
            space, set(said.get("removals") or ()), said.get("updates") or {}
        )
        return as_json({"updated": done.updated, "removed": done.removed, "missing": done.missing})

    def tables(self, request: Request, _said: Any) -> Response:
        """The tables of a namespace."""
        found = self._catalog.list_tables(_space(request.path_params["namespace"]))
        return as_json({"identifiers": [{"namespace": one[:-1], "name": one[-1]} for one in found]})

    def table(self, request: Request, _said: Any) -> Response:
        """A table's metadata. Whoever has it already (`If-None-Match`) is told so, without a look into the store."""
        location = self._location(*_table(request))
        tag = _tag(location)
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return _loaded(location, self._metadata(location))

    def has_table(self, request: Request, _said: Any) -> Response:
        """Whether there is such a table."""
        self._location(*_table(request))
        return Response(status_code=204)

    def create_table(self, request: Request, said: Any) -> Response:
        """Make a table, or only say what it would be (`stage-create`)."""
        from pyiceberg.catalog.rest import CreateTableRequest
        from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
        from pyiceberg.table.sorting import UNSORTED_SORT_ORDER

        asked = CreateTableRequest.model_validate(
            {"location": None, "partition-spec": None, "write-order": None, **said}
        )
        name = (*_space(request.path_params["namespace"]), asked.name)
        made = self._catalog.create_table_transaction if asked.stage_create else self._catalog.create_table
        table: Any = made(
            name,
            asked.table_schema,
            asked.location,
            asked.partition_spec or UNPARTITIONED_PARTITION_SPEC,
            asked.write_order or UNSORTED_SORT_ORDER,
            asked.properties,
        )
        if asked.stage_create:
            return _loaded(None, table.table_metadata.model_dump_json().encode())
        return _loaded(table.metadata_location, table.metadata.model_dump_json().encode())

    def register_table(self, request: Request, said: Any) -> Response:
        """Take a table in by its metadata file."""
        name = (*_space(request.path_params["namespace"]), said["name"])
        table = self._catalog.register_table(name, said["metadata-location"], bool(said.get("overwrite")))
        return _loaded(table.metadata_location, table.metadata.model_dump_json().encode())

    def commit(self, request: Request, said: Any) -> Response:
        """Change a table, if it is still what the requirements say."""
        from pyiceberg.table import CommitTableRequest
        from sqlalchemy.exc import DBAPIError

        space, name = _table(request)
        asked = CommitTableRequest.model_validate({"identifier": {"namespace": space, "name": name}, **said})
        self._answers()
        _refuse_when_late(request)  # whoever asked has looked what became of it, and may ask for something else by now
        try:
            done = self._catalog.commit_table(_Named((*space, name)), asked.requirements, asked.updates)  # type: ignore[arg-type]
        except DBAPIError as problem:
            raise RefusedError(500, "CommitStateUnknownException", _first_line(problem)) from problem
        metadata = done.metadata.model_dump_json().encode()
        return _loaded(done.metadata_location, metadata)

    def drop_table(self, request: Request, _said: Any) -> Response:
        """Forget a table; its files stay."""
        space, name = _table(request)
        self._catalog.drop_table((*space, name))
        return Response(status_code=204)

    def rename_table(self, _request: Request, said: Any) -> Response:
        """Give a table another name."""
        source, target = said["source"], said["destination"]
        self._catalog.rename_table((*source["namespace"], source["name"]), (*target["namespace"], target["name"]))
        return Response(status_code=204)

    def report(self, _request: Request, _said: Any) -> Response:
        """Take a client's report of a scan or commit, and keep nothing of it."""
        return Response(status_code=204)

    def _answers(self) -> None:
        """Prove that the database answers, before anything is written that would depend on it."""
        from sqlalchemy import text

        with self._catalog.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def _location(self, space: tuple[str, ...], name: str) -> str:
        from sqlalchemy import text

        asked = {"catalog": self._catalog.name, "namespace": ".".join(space), "name": name}
        with self._catalog.engine.connect() as connection:
            found = connection.execute(text(_FIND), asked).scalar()
        if found is None:
            raise RefusedError(404, "NoSuchTableException", f"Table does not exist: {'.'.join((*space, name))}")
        return str(found)

    def _metadata(self, location: str) -> bytes:
        from pyiceberg.io import load_file_io

        with self._keeping:
            if location in self._kept:
                return self._kept[location]
        try:
            with load_file_io(self._catalog.properties, location).new_input(location).open() as file:
                text = file.read()
        except FileNotFoundError as problem:
            raise RefusedError(500, "NotFoundException", f"Location does not exist: {location}") from problem
        with self._keeping:
            self._kept[location] = text
            while len(self._kept) > _KEPT_METADATA:
                self._kept.popitem(last=False)
        return text


class _Named:
    """All that the catalog asks of a table that is to change."""

    def __init__(self, identifier: tuple[str, ...]) -> None:
        self._identifier = identifier

    def name(self) -> tuple[str, ...]:
        """Namespace and name."""
        return self._identifier


def _space(text: str) -> tuple[str, ...]:
    return tuple(text.split(_SEPARATOR)) if text else ()


def _table(request: Request) -> tuple[tuple[str, ...], str]:
    return _space(request.path_params["namespace"]), request.path_params["table"]


def _loaded(location: str | None, metadata: bytes) -> Response:
    """The specification's LoadTableResult; the metadata as the file has it, not parsed and written again."""
    import msgspec

    body = msgspec.json.encode({"metadata-location": location, "metadata": msgspec.Raw(metadata), "config": {}})
    return Response(body, media_type="application/json", headers={"ETag": _tag(location)} if location else None)


def _tag(location: str) -> str:
    """A metadata file as a header may name it: its path can have letters that a header cannot."""
    return f'"{quote(location)}"'


def _refuse_when_late(request: Request) -> None:
    """Do nothing for someone who has stopped waiting, which is what happens when the database stands still."""
    if time.monotonic() - request.state.began > _LATE_S:
        raise RefusedError(503, "ServiceUnavailableException", "The database answered too late; nothing was done")


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n", 1)[0]


def _judged(problem: Exception) -> RefusedError:
    """A foreign error as the specification tells it."""
    from pydantic import ValidationError
    from pyiceberg import exceptions as told
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError

    kinds: tuple[tuple[tuple[type[Exception], ...], int, str], ...] = (
        ((told.NoSuchTableError,), 404, "NoSuchTableException"),
        ((told.NoSuchNamespaceError,), 404, "NoSuchNamespaceException"),
        ((told.TableAlreadyExistsError, told.NamespaceAlreadyExistsError), 409, "AlreadyExistsException"),
        ((told.NamespaceNotEmptyError,), 409, "NamespaceNotEmptyException"),
        ((told.CommitFailedException,), 409, "CommitFailedException"),
        ((FileNotFoundError,), 500, "NotFoundException"),
        ((DBAPIError, PoolTimeoutError, OSError), 503, "ServiceUnavailableException"),
        ((ValidationError, ValueError, KeyError, TypeError, told.ValidationException), 400, "BadRequestException"),
    )
    for classes, status, kind in kinds:
        if isinstance(problem, classes):
            return RefusedError(status, kind, _first_line(problem) or type(problem).__name__)
    return RefusedError(500, "InternalServerError", f"{type(problem).__name__}: {_first_line(problem)}")


def application(catalog: SqlCatalog) -> Starlette:
    """The catalog's server."""
    ends, measurements = Endpoints(catalog), Measurements(VERSION, component="iceberg-rest")
    space, table = "/v1/namespaces/{namespace}", "/v1/namespaces/{namespace}/tables/{table}"
    return Starlette(
        routes=[
            _route("GET", "/metrics", lambda *_: Response(measurements.text(), media_type="text/plain; version=0.0.4")),
            _route("GET", "/v1/config", ends.config),
            _route("GET", "/v1/namespaces", ends.namespaces),
            _route("POST", "/v1/namespaces", ends.create_namespace),
            _route("GET", space, ends.namespace),
            _route("DELETE", space, ends.drop_namespace),
            _route("POST", f"{space}/properties", ends.change_namespace),
            _route("POST", f"{space}/register", ends.register_table),
            _route("GET", f"{space}/tables", ends.tables),
            _route("POST", f"{space}/tables", ends.create_table),
            _route("HEAD", table, ends.has_table),
            _route("GET", table, ends.table),
            _route("POST", table, ends.commit),
            _route("DELETE", table, ends.drop_table),
            _route("POST", f"{table}/metrics", ends.report),
            _route("POST", "/v1/tables/rename", ends.rename_table),
        ],
        middleware=[Middleware(Observed, measurements=measurements)],
        exception_handlers={
            404: lambda *_: _error(404, "NotFoundException", "There is no such path"),
            405: lambda *_: _error(405, "UnsupportedOperationException", "This path knows no such method"),
        },
    )


def _route(method: str, path: str, endpoint: Callable[[Request, Any], Response]) -> Route:
    async def answer(request: Request) -> Response:
        request.state.endpoint, request.state.began = path, time.monotonic()
        body = await request.body() if method == "POST" else b""
        return await run_in_threadpool(_answered, endpoint, request, body)

    return Route(path, answer, methods=[method], name=f"{method} {path}")


def _answered(endpoint: Callable[[Request, Any], Response], request: Request, body: bytes) -> Response:
    import msgspec

    try:
        return endpoint(request, msgspec.json.decode(body) if body else {})
    except RefusedError as refused:
        return _error(refused.status, refused.kind, refused.message)
    except Exception as problem:  # noqa: BLE001  the boundary of a request
        told = _judged(problem)
        if told.status >= 500:  # noqa: PLR2004  the server's own
            log("request_failed", "error", path=request.url.path, kind=told.kind, error=told.message)
        return _error(told.status, told.kind, told.message)


def _error(status: int, kind: str, message: str) -> Response:
    return as_json({"error": {"message": message, "type": kind, "code": status}}, status)


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.iceberg_rest", description=__doc__)
    parser.add_argument("--port", type=int, default=18181, help="port to answer on (default: 18181)")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer on; 0.0.0.0 in a container")
    parser.add_argument(
        "--database", required=True, help="URL of the database, as SQLAlchemy has it; the password is in PGPASSWORD"
    )
    parser.add_argument("--warehouse", required=True, help="where tables are: s3://BUCKET, or a directory")
    store_files.add_store(parser)
    return parser


def open_catalog(options: argparse.Namespace, stopping: threading.Event) -> SqlCatalog | None:
    """The catalog, its tables in the database made when missing; None when told to stop meanwhile."""
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError

    try:
        url = make_url(options.database)
    except ArgumentError as problem:
        give_up(f"--database: {problem}")
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg").update_query_dict({"connect_timeout": "5"})
    settings = {
        "uri": url.render_as_string(hide_password=False),
        "warehouse": options.warehouse,
        "pool_pre_ping": "true",
        **store_files.store_properties(options.s3_endpoint),
    }
    found: list[SqlCatalog] = []

    def opened() -> bool:
        try:
            found.append(SqlCatalog(CATALOG, **settings))
        except DBAPIError as problem:
            if "password" in str(problem) or "does not exist" in str(problem):
                give_up(f"the database at {url.render_as_string()} refuses: {_first_line(problem)}")
            return False
        return True

    return found[0] if wait_until(opened, stopping, f"the database at {url.render_as_string()}") else None


def main() -> None:
    """Serve until told to stop."""
    options = arguments().parse_args()
    require_free_port(options.port, options.host)
    stopping = stop_signal()
    catalog = open_catalog(options, stopping)
    if catalog is not None:
        server = web_server(application(catalog), options.port, options.host)
        taken = take_port(options.port, options.host)
        log("iceberg_rest_listening", url=f"http://{options.host}:{options.port}", warehouse=options.warehouse)
        server.run([taken])
    log("iceberg_rest_stopped")
    # Threads may be waiting for a database that says nothing; what they were asked is no one's any more.
    os._exit(0)


if __name__ == "__main__":
    main()
