"""K2's Avro schemas, the subjects under which they are registered, and the programs' client of the registry.

Ids are asked for once: a running program needs no registry for the schemas that it knows. While no node answers it asks
again, for as long as it takes.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from k2run.k2.platform.program import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMESPACE = "com.k2.marketdata"

Schema = dict[str, Any]

_MICROS = {"type": "long", "logicalType": "timestamp-micros"}
_AMOUNT = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 8}
_ASSET_CLASS = {"type": "enum", "name": "AssetClass", "symbols": ["equities", "crypto", "futures", "options"]}


def _field(name: str, kind: Any = "string") -> dict[str, Any]:
    return {"name": name, "type": kind}


def _nullable(name: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "type": ["null", kind], "default": None}


TRADE: Schema = {
    "type": "record",
    "name": "TradeV2",
    "namespace": NAMESPACE,
    "fields": [
        _field("message_id"),
        _field("trade_id"),
        _field("symbol"),
        _field("exchange"),
        _field("asset_class", _ASSET_CLASS),
        _field("timestamp", _MICROS),
        _field("price", _AMOUNT),
        _field("quantity", _AMOUNT),
        _field("currency"),
        _field("side", {"type": "enum", "name": "TradeSide", "symbols": ["BUY", "SELL", "SELL_SHORT", "UNKNOWN"]}),
        _field("trade_conditions", {"type": "array", "items": "string"}),
        _nullable("source_sequence", "long"),
        _field("ingestion_timestamp", _MICROS),
        _nullable("platform_sequence", "long"),
        _nullable("vendor_data", {"type": "map", "values": "string"}),
    ],
}

REFERENCE_DATA: Schema = {
    "type": "record",
    "name": "ReferenceDataV2",
    "namespace": NAMESPACE,
    "fields": [
        _field("message_id"),
        _field("company_id"),
        _field("symbol"),
        _field("exchange"),
        _field("asset_class", _ASSET_CLASS),
        _field("company_name"),
        _nullable("isin", "string"),
        _nullable("currency", "string"),
        _nullable("listing_date", {"type": "int", "logicalType": "date"}),
        _nullable("delisting_date", {"type": "int", "logicalType": "date"}),
        _field("is_active", "boolean"),
        _field("ingestion_timestamp", _MICROS),
        _nullable("vendor_data", {"type": "map", "values": "string"}),
    ],
}


def subjects(topic: str, data_type: str) -> tuple[str, str]:
    """The subjects of a topic's values: K2's own, for all exchanges, and the one that serializers choose."""
    return f"market.crypto.{data_type}-value", f"{topic}-value"


def without(schema: Schema, field: str) -> Schema:
    """The schema of a producer that leaves a field out."""
    return {**schema, "fields": [one for one in schema["fields"] if one["name"] != field]}


def written_alike(one: Any, other: Any) -> bool:
    """Whether two schemas mean the same bytes and the same values: documentation, aliases and defaults do not count."""
    return bool(_bare(one) == _bare(other))


_WORDS = ("doc", "aliases", "default", "order")


def _bare(schema: Any, namespace: str = "") -> Any:
    match schema:
        case list():
            return [_bare(branch, namespace) for branch in schema]
        case {"type": dict() | list() as inner, **rest} if "name" not in rest:
            return _bare(inner, namespace)
        case dict():
            return _bare_one(schema, namespace)
        case str() if "." not in schema and schema not in _PRIMITIVE and namespace:
            return f"{namespace}.{schema}"
    return schema


_PRIMITIVE = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}


def _bare_one(schema: Schema, namespace: str) -> Any:
    if set(schema) == {"type"}:
        return schema["type"]
    found = {name: value for name, value in schema.items() if name not in {*_WORDS, "namespace", "fields"}}
    space = schema.get("namespace", namespace)
    if "name" in schema:
        whole = schema["name"] if "." in schema["name"] or not space else f"{space}.{schema['name']}"
        found["name"], space = whole, whole.rpartition(".")[0]
    if "fields" in schema:
        found["fields"] = [(field["name"], _bare(field["type"], space)) for field in schema["fields"]]
    for part in ("items", "values"):
        if part in schema:
            found[part] = _bare(schema[part], space)
    return found


MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_ASK_S = 2.0
_AGAIN_S = 0.25
_TELL_S = 5.0
_NO_SUBJECT, _NO_SCHEMA = 40401, 40403


class RegistryDownError(Exception):
    """No node of the registry answers from its state."""


class RefusedError(Exception):
    """The registry says no.

    Attributes:
        code: Its error code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class StoppedError(Exception):
    """The program was told to end while it waited."""


class RegistryClient:
    """Asks the first node that answers; the one that did is the first to be asked next time."""

    def __init__(self, urls: str, stopping: threading.Event, waits: Callable[[bool], None] = lambda _: None) -> None:
        self._urls = [url.rstrip("/") for url in urls.split(",") if url]
        self._stopping = stopping
        self._waits = waits

    def register(self, subject: str, schema: Any) -> int:
        """The id of a schema, which is registered under the subject if it is not yet.

        Raises:
            RefusedError: It may not follow those that are there.
            StoppedError: The program was told to end while it waited.
        """
        body = {"schema": json.dumps(schema, separators=(",", ":"))}
        return int(self._patiently("POST", f"/subjects/{quote(subject, safe='')}/versions", body)["id"])

    def schema(self, number: int, subject: str) -> Any | None:
        """The schema with an id; None when the registry has none, though it has the subject.

        A registry that does not have the subject either has lost its state. What was written with its ids is no rubbish
        then, so its answer is waited for as if it were down.

        Raises:
            StoppedError: The program was told to end while it waited.
        """
        try:
            return json.loads(self._patiently("GET", f"/schemas/ids/{number}", lost=subject)["schema"])
        except RefusedError as refused:
            if refused.code != _NO_SCHEMA:
                raise
            return None

    def newest(self, subject: str) -> tuple[int, Any] | None:
        """The newest schema of a subject with its id; None when no node has it, or none answers: it does not wait."""
        try:
            answer = self._one("GET", f"/subjects/{quote(subject, safe='')}/versions/latest")
        except (RegistryDownError, RefusedError):
            return None
        return int(answer["id"]), json.loads(answer["schema"])

    def _patiently(self, verb: str, path: str, body: Any = None, lost: str = "") -> Any:
        told = 0.0
        while True:
            try:
                with self._waiting_when_late():
                    answer = self._asked(verb, path, body, lost)
            except RegistryDownError as problem:
                self._waits(True)
                if time.monotonic() - told > _TELL_S:
                    told = time.monotonic()
                    log("schema_registry_unreachable", "warning", waiting_for=path, error=problem)
                if self._stopping.wait(_AGAIN_S):
                    raise StoppedError from problem
            else:
                if told:
                    log("schema_registry_answers_again", url=self._urls[0])
                self._waits(False)
                return answer

    @contextmanager
    def _waiting_when_late(self) -> Iterator[None]:
        """Say that it waits as soon as an answer is late: a name may take longer to look up than a node to ask."""
        late = threading.Timer(_ASK_S, self._waits, [True])
        late.daemon = True
        late.start()
        try:
            yield
        finally:
            late.cancel()
            late.join()

    def _asked(self, verb: str, path: str, body: Any, lost: str) -> Any:
        try:
            return self._one(verb, path, body)
        except RefusedError as refused:
            if lost and refused.code == _NO_SCHEMA:
                try:
                    self._one("GET", f"/subjects/{quote(lost, safe='')}/versions")
                except RefusedError as unknown:
                    if unknown.code == _NO_SUBJECT:
                        raise RegistryDownError(f"the registry has lost its subjects: {unknown}") from unknown
                    raise
            raise

    def _one(self, verb: str, path: str, body: Any = None) -> Any:
        problems = []
        for url in list(self._urls):
            try:
                answer = _ask(verb, url + path, body)
            except (OSError, ValueError) as problem:
                problems.append(f"{url}: {getattr(problem, 'reason', None) or problem}")
            except RefusedError as refused:
                if not str(refused.code).startswith("5"):
                    raise
                problems.append(f"{url}: {refused}")
            else:
                self._urls.remove(url)
                self._urls.insert(0, url)
                return answer
        raise RegistryDownError("; ".join(problems))


def _ask(verb: str, url: str, body: Any) -> Any:
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, sent, {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE}, method=verb)  # noqa: S310 - as the operator says
    try:
        with urllib.request.urlopen(request, timeout=_ASK_S) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as problem:
        try:
            told = json.load(problem)
            code, message = int(told["error_code"]), str(told["message"])
        except (ValueError, KeyError, TypeError):
            code, message = problem.code, problem.reason
        raise RefusedError(code, message) from problem
