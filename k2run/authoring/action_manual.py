"""The manual on the terminal: actions and keywords, from signatures and docstrings; codes of problems with examples."""

from __future__ import annotations

import re
import types
from functools import cache
from inspect import cleandoc
from pathlib import Path
from textwrap import fill, indent
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgspec

from k2run.actions.action import Effect
from k2run.actions.catalogue import Action, Catalogue
from k2run.errors import UsageError
from k2run.language.json_schema import JsonSchema
from k2run.language.keywords import BLOCK, KEYWORDS, refused
from k2run.language.problems import explanations, read_explanations
from k2run.language.quantities import Duration, Rate, Size
from k2run.language.schema import described_arguments, runbook_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msgspec.structs import FieldInfo

    from k2run.language.problems import Explanation

_SECTIONS = re.compile(r"^(?:Args|Returns|Raises|Yields):$", re.MULTILINE)
_KINDS: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    Any: "any value",
    Duration: "duration (`30s`, `2m`)",
    Size: "size (`64MiB`)",
    Rate: "rate (`100/s`)",
    JsonSchema: "JSON Schema, or the path of a file with one",
}
_UNITS = {
    "_ms": "milliseconds",
    "per_s": "per second",
    "_s": "seconds",
    "_bytes": "bytes",
    "_percent": "per cent",
    "ratio": "0 to 1",
}
"""What the end of a name says of its unit."""
_EXAMPLES = {
    "assert": "- name: Few wait\n  assert: {that: [lag.total < 1000, lag.partitions > 0]}",
    "wait": "- name: Let it settle\n  wait: {for: 5s}",
    "set": '- name: Remember\n  set: {limit: "{{ backlog * 2 }}"}',
    "run": "- name: Break the consumer\n  run: {runbook: scenarios/consumer-lag.yaml, inputs: {backlog: 1000}}\n"
    "  timeout: 5m\n  expect: result.outcome == 'failed'",
    "stop": "- name: Nothing to do\n  when: lag.total == 0\n  stop: {because: nothing is waiting, passed: true}",
    "skip_section": "- name: Not today\n  when: quick\n  skip_section: {because: it takes an hour}",
    "block": "- name: Write\n  timeout: 30s\n  block:\n    - {shell.run: {command: touch probe}}\n  rescue:\n"
    '    - {manual.note: {text: "{{ failed.name }}: {{ failed.message }}"}}\n  always:\n'
    "    - {shell.run: {command: rm -f probe}}",
}
KEYWORD_PAGES = tuple(_EXAMPLES)
"""The keywords that have a page."""
_NAMED: dict[str, Any] = {
    "bucket": "backups",
    "by": "30s",
    "choices": ["yes", "no"],
    "command": ["echo", "hello"],
    "container": "shop-web",
    "dashboard": "overview",
    "during": "10s",
    "file": "evidence/page.png",
    "group": "writers",
    "host": "127.0.0.1",
    "key": "demo/orders.parquet",
    "latency": "100ms",
    "link": "kafka",
    "metric": "queue_depth",
    "metrics": ["queue_depth"],
    "network": "shop",
    "path": "/health",
    "query": "up",
    "question": "Did it work?",
    "schema": {"type": "string"},
    "server": "pool.ntp.org",
    "service": "api",
    "settings": {"retention.ms": "3600000"},
    "sql": "select count(*) as n from orders",
    "subject": "orders-value",
    "table": "shop.orders",
    "text": "The demo begins",
    "that": "The room is ready",
    "topic": "orders",
}
"""Values in examples by the name of the argument; others are made from the type."""
_USUAL = {"status": 200, "exit_code": 0, "duplicates": 0, "missing": 0, "lost": 0, "errors": 0, "down": 0}
"""What a figure of that name should be."""
_SHOWN = ("service", "path", "topic", "table")
"""Arguments that an example gives also where they may be left out, for want of others."""
_TYPED: dict[Any, Any] = {str: "…", int: 1, float: 1.0, bool: True, Duration: "10s", Size: "10MiB", Rate: "100/s"}
LINT_CODES = Path(__file__).with_name("codes.md")
_WIDTH = 100


def show_actions(name: str) -> None:
    """Show one action in full, an adapter's actions, or all of them with a line each."""
    if name in KEYWORD_PAGES:
        print(keyword_page(name))
        return
    catalogue = Catalogue()
    action = catalogue.find(name) if "." in name else None
    if action is not None:
        print(page(action))
        return
    fitting = [entry for entry in catalogue.all() if not name or entry.name.partition(".")[0] == name]
    if not fitting:
        from k2run.language.problems import did_you_mean

        hint = did_you_mean(name, [*catalogue.names(), *catalogue.adapters(), *KEYWORD_PAGES])
        raise UsageError(f"unknown action or adapter {name!r}", hint=hint or "`k2run doc` lists all")
    print(_catalogue(fitting))


def page(action: Action) -> str:
    """The page of an action: what it does, each argument once, its result, an example."""
    lines = [f"{action.name}  ({action.effect.value})", "", summary_of(action), "", "Arguments"]
    lines += [_entry(name, kind, default, words) for name, kind, default, words in argument_rows(action)] or ["  none"]
    results = result_rows(action)
    if results:
        lines += ["", "Result", *(_entry(f"result.{name}", kind, "", words) for name, kind, words in results)]
    needs = [connection.key for connection in action.connections if connection.key]
    if needs:
        lines += ["", f"Needs of the stack: {', '.join(needs)}"]
    lines += ["", "Example", indent(example_of(action), "  ")]
    return "\n".join(lines)


def summary_of(action: Action) -> str:
    """What an action does, without its arguments and the errors that only programs see."""
    return _SECTIONS.split(action.doc, maxsplit=1)[0].strip()


def argument_rows(action: Action) -> list[tuple[str, str, str, str]]:
    """The arguments of an action: name, type with its unit, default, meaning."""
    words = described_arguments(action.doc)
    return [
        (entry.encode_name, kind_of(entry.type), _default(entry), words.get(entry.encode_name, ""))
        for entry in msgspec.structs.fields(action.arguments)
    ]


def result_rows(action: Action) -> list[tuple[str, str, str]]:
    """The fields of an action's result: name, type with its unit, meaning."""
    result = action.result
    if not (isinstance(result, type) and issubclass(result, msgspec.Struct)):
        return []
    words = described_fields(result)
    return [
        (entry.encode_name, kind_of(entry.type, entry.encode_name), words.get(entry.encode_name, ""))
        for entry in msgspec.structs.fields(result)
    ]


def described_fields(kind: type) -> dict[str, str]:
    """What the docstring of a class says of each of its fields."""
    return described_arguments(cleandoc(kind.__doc__ or "").replace("Attributes:\n", "Args:\n"))


def _entry(name: str, kind: str, default: str, words: str) -> str:
    """An argument or a field of a result on the terminal; marks of Markdown are for pages."""
    about = ", ".join(part for part in (kind.replace("`", ""), default.replace("`", "")) if part)
    said = fill(words, 100, initial_indent="      ", subsequent_indent="      ")
    return f"  {name}: {about}" + (f"\n{said}" if words else "")


def _catalogue(actions: Iterable[Action]) -> str:
    rows = [(action.name, action.effect.value, action.summary) for action in actions]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {effect.ljust(8)}  {summary}" for name, effect, summary in rows)


def kind_of(kind: Any, name: str = "") -> str:
    """A type in the words of a runbook's author, with the unit that a name such as `p99_ms` tells."""
    if kind in _KINDS:
        return _KINDS[kind] + (_unit(name) if kind in {int, float} else "")
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f"`{part}`" if part else "nothing" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(kind_of(part, name) for part in parts if part is not type(None))
    if origin in (list, tuple):
        return f"list of {_plural(parts[0])}"
    if origin is dict:
        keys = "" if parts[0] is str else f"{_plural(parts[0])} to "
        return "mapping" if parts == (str, Any) else f"mapping of {keys}{_plural(parts[1])}"
    return _kind_of_class(kind)


def _kind_of_class(kind: type) -> str:
    if issubclass(kind, msgspec.Struct):
        return f"mapping ({', '.join(f'`{field.encode_name}`' for field in msgspec.structs.fields(kind))})"
    example = getattr(kind, "example", "")
    return f"text such as `{example}`" if example else kind.__name__


def _plural(kind: Any) -> str:
    if kind is Any:
        return "values"
    words = kind_of(kind)
    if kind in _KINDS:
        return f"{words.partition(' ')[0]}s"
    return re.sub(r"^(mapping|text)\b", r"\1s", words)


def _unit(name: str) -> str:
    return next((f", {unit}" for ending, unit in _UNITS.items() if name.endswith(ending)), "")


def _default(entry: FieldInfo) -> str:
    if entry.required:
        return "required"
    default = entry.default
    if default is msgspec.NODEFAULT or default is None or default == "" or isinstance(default, msgspec.Struct):
        return "optional"
    if isinstance(default, bool):
        return f"default `{str(default).lower()}`"
    return f"default `{default if isinstance(default, str | int | float) else str(default)}`".replace("\n", "\\n")


def keyword_page(name: str) -> str:
    """The page of a keyword, with an example."""
    schema = runbook_schema(Catalogue())
    place = BLOCK if name == "block" else name
    if name == "block":
        keywords = schema["$defs"]["step"]["properties"]
        said = keywords["block"]["description"]
        arguments = {key: keywords[key].get("description", "") for key in ("block", "rescue", "always")}
    else:
        made = schema["$defs"][f"action:{name}"]
        said = made["description"]
        arguments = {key: value.get("description", "") for key, value in made.get("properties", {}).items()}
    taken = [key for key in KEYWORDS if not refused(key, place)]
    lines = [f"{name}  (keyword)", "", said, "", "Arguments"]
    lines += [f"  {key}: {text}".rstrip(": ") for key, text in arguments.items()] or ["  names and their values"]
    lines += ["", "Keywords", indent(", ".join(taken), "  "), "", "Example", indent(_EXAMPLES[name], "  ")]
    return "\n".join(lines)


def example_of(action: Action) -> str:
    """A step with the action, as in a runbook."""
    fields = msgspec.structs.fields(action.arguments)
    given = {field.encode_name: _value(field) for field in fields if field.required}
    if not given:
        optional = [field for field in fields if field.encode_name in _SHOWN and field.type is str]
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


def _flow(value: Any) -> str:
    """A value in one line of YAML; JSON is YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and value.replace("_", "").replace("-", "").replace(".", "").replace("/", "").isalnum():
        from k2run.language.nodes import plain_value

        return value if isinstance(plain_value(value), str) else f'"{value}"'
    return msgspec.json.encode(value).decode()


def _expectation(action: Action) -> str:
    """An expectation for its result; none for a fault."""
    result = action.result
    if action.effect is Effect.BREAKS or not (isinstance(result, type) and issubclass(result, msgspec.Struct)):
        return ""
    fields = msgspec.structs.fields(result)
    kinds = {field.encode_name: field.type for field in fields if field.encode_name not in ("source", "truncated")}
    name = next((name for name, kind in kinds.items() if kind in (bool, int, float)), "")
    return f"result.{name}{_bound(name, kinds[name])}" if name else ""


def _bound(name: str, kind: type) -> str:
    """The usual bound of a field of that name."""
    if kind is bool:
        return ""
    if name in _USUAL:
        return f" == {_USUAL[name]}"
    return " < 1000" if name.endswith(("_ms", "_s", "total")) and not name.endswith("per_s") else " > 0"


@cache
def every_explanation() -> dict[str, Explanation]:
    """Every code with its explanation: problems first, then findings of lint."""
    return {**explanations(), **read_explanations(LINT_CODES)}


def show_explanation(code: str) -> None:
    """Explain a code; list every code with its title when none is given.

    Raises:
        UsageError: There is no such code.
    """
    known = every_explanation()
    if not code:
        print("\n".join(f"{entry.code}  {entry.title}" for entry in known.values()))
        return
    entry = known.get(code.upper())
    if entry is None:
        from k2run.language.problems import did_you_mean

        raise UsageError(
            f"unknown code {code}", hint=did_you_mean(code.upper(), known) or "`k2run explain` lists them all"
        )
    print(told(entry))


def told(entry: Explanation) -> str:
    """An explanation as text for a terminal."""
    parts = [f"{entry.code}: {entry.title}"]
    if entry.why:
        parts.append(fill(entry.why, _WIDTH))
    parts += [f"{word}:\n\n{indent(example.rstrip(), '    ')}" for word, example in examples_of(entry)]
    return "\n\n".join(parts)


def examples_of(entry: Explanation) -> list[tuple[str, str]]:
    """The wrong and the right example of an explanation, as far as it has them."""
    return [(word, text) for word, text in (("Wrong", entry.wrong), ("Right", entry.right)) if text]
