"""K2's Avro schemas, and the subjects under which they are registered."""

from __future__ import annotations

from typing import Any

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
