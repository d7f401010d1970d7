"""An example of every action, made from its signature: always current, always valid."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgspec

from k2run.actions.action import Effect
from k2run.language.quantities import Duration, Rate, Size

if TYPE_CHECKING:
    from msgspec.structs import FieldInfo

    from k2run.actions.catalogue import Action

_NAMED: dict[str, Any] = {
    "bucket": "backups",
    "by": "30s",
    "choices": ["yes", "no"],
    "command": ["echo", "hello"],
    "container": "k2-api",
    "dashboard": "k2-overview",
    "during": "10s",
    "file": "evidence/page.png",
    "group": "k2-iceberg-writer-crypto-v2",
    "host": "127.0.0.1",
    "key": "demo/trades.parquet",
    "latency": "100ms",
    "link": "kafka",
    "metric": "k2_degradation_level",
    "metrics": ["k2_degradation_level"],
    "network": "k2",
    "path": "/health",
    "query": "up",
    "question": "Did it work?",
    "schema": {"type": "string"},
    "server": "pool.ntp.org",
    "service": "api",
    "settings": {"retention.ms": "3600000"},
    "sql": "select count(*) as n from trades_v2",
    "subject": "market.crypto.trades-value",
    "table": "market_data.trades_v2",
    "text": "The demo begins",
    "that": "The room is ready",
    "topic": "market.crypto.trades.binance",
}
"""What stands in an example for an argument of that name; others are made from their type."""
_USUAL = {"status": 200, "exit_code": 0, "duplicates": 0, "missing": 0, "lost": 0, "errors": 0, "down": 0}
"""What a figure of that name should be."""
_SHOWN = ("service", "path", "topic", "table")
"""Arguments that an example gives also where they may be left out, for want of others."""
_TYPED: dict[Any, Any] = {str: "…", int: 1, float: 1.0, bool: True, Duration: "10s", Size: "10MiB", Rate: "100/s"}


def example_of(action: Action) -> str:
    """A step with the action, as it stands in a runbook."""
    fields = msgspec.structs.fields(action.arguments)
    given = {field.encode_name: _value(field) for field in fields if field.required}
    if not given:
        optional = [field for field in fields if field.encode_name in _SHOWN and _is_text(field.type)]
        given = {field.encode_name: _value(field) for field in optional[:2]}
    lines = [f"- name: {_name(action)}", f"  {action.name}: {_flow(given)}"]
    expected = _expectation(action)
    return "\n".join([*lines, *([f"  expect: {expected}"] if expected else [])])


def _name(action: Action) -> str:
    import json

    sentence = action.summary.rstrip(".").split(":")[0]
    plain = not set(sentence) & set("#'\"{}[]&*!|>%@`,") and sentence.isprintable()
    return sentence if plain else json.dumps(sentence, ensure_ascii=False)


def _value(field: FieldInfo) -> Any:
    name, kind = field.encode_name, field.type
    made = _of_type(kind)
    named = _NAMED.get(name)
    fits = named is not None and (made is None or made == "…" or type(named) is type(made) or kind is Any)
    return named if fits else made


def _of_type(kind: Any) -> Any:
    if kind in _TYPED:
        return _TYPED[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return parts[0]
    if origin in (Union, types.UnionType):
        return _of_type(parts[-1] if parts[0] is type(None) else parts[0])
    if origin in (list, tuple):
        return [_of_type(parts[0])]
    if origin is dict:
        return {"name": _of_type(parts[1])}
    return None


def _is_text(kind: Any) -> bool:
    return kind is str


def _flow(value: Any) -> str:
    """A value in one line of YAML; JSON is YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and value.replace("_", "").replace("-", "").replace(".", "").replace("/", "").isalnum():
        from k2run.language.scalars import plain_value

        return value if isinstance(plain_value(value), str) else f'"{value}"'
    return msgspec.json.encode(value).decode()


def _expectation(action: Action) -> str:
    """Something that its result can be held against; nothing for a fault, whose result is that it struck."""
    result = action.result
    if action.effect is Effect.BREAKS or not (isinstance(result, type) and issubclass(result, msgspec.Struct)):
        return ""
    fields = msgspec.structs.fields(result)
    kinds = {field.encode_name: field.type for field in fields if field.encode_name not in ("source", "truncated")}
    name = next((name for name, kind in kinds.items() if kind in (bool, int, float)), "")
    return f"result.{name}{_bound(name, kinds[name])}" if name else ""


def _bound(name: str, kind: type) -> str:
    """What a field of that name is usually held against."""
    if kind is bool:
        return ""
    if name in _USUAL:
        return f" == {_USUAL[name]}"
    return " < 1000" if name.endswith(("_ms", "_s", "total")) else " > 0"
