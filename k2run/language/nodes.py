"""YAML nodes and scalars to plain values: duplicate keys, merges, aliases and tags."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.language.document import Document
    from k2run.language.problems import Problem


Plain = str | int | float | bool | None

_WORDS: dict[str, Plain] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_NUMBER_STARTS = frozenset("0123456789+-.")
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,300}|[0-9]{1,300}(?:\.[0-9]{0,300})?)(?:[eE][-+]?[0-9]{1,5})?", re.ASCII)
_BASED = re.compile(r"0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}", re.ASCII)
_PADDED = re.compile(r"[-+]?0[0-9]+", re.ASCII)


def plain_value(text: str) -> Plain:
    """The value of an unquoted scalar."""
    if text[:1] in _NUMBER_STARTS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
    return _WORDS.get(text, text)


def is_padded_number(text: str) -> bool:
    """`012`: decimal to some, octal to others, and an identifier to most."""
    return _PADDED.fullmatch(text) is not None


def tagged_value(tag: str, text: str) -> Any:
    """The value of a scalar with one of YAML's own tags, such as `!!str 12`.

    Raises:
        KeyError: The tag is not one of YAML's scalar tags.
        ValueError: The text is no such value.
    """
    kind: type = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}[
        tag.removeprefix("tag:yaml.org,2002:")
    ]
    if kind is str:
        return text
    value = plain_value(text)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        msg = f"{text!r} is not {tag}"
        raise ValueError(msg)
    return value


MAX_ALIASED = 20_000
"""Values that aliases may add to a document, all together."""

_CORE = "tag:yaml.org,2002:"
_COLLECTION_TAGS: dict[type[Node], str] = {MappingNode: f"{_CORE}map", SequenceNode: f"{_CORE}seq"}


MAX_DEPTH = 64
"""Levels of nesting; deeper ones are a mistake or an attack on the recursion."""


class TooDeep(Exception):
    """The document is nested too deeply; `offset` says where."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


def bare_template(document: Document, at: int) -> Problem:
    """The problem of a `{{` without quotes at an offset of the text."""
    return document.problem_at(
        "K110",
        "a value that begins with {{ must stand in quotes",
        at,
        2,
        hint='write it as "{{ … }}"; YAML reads a bare { as the start of a mapping',
    )


class Builder:
    """Builds the plain values of one document and notes what is wrong with its nodes."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._built: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()
        self._count = 0
        self._aliased = 0

    def build(self, node: Node) -> Any:
        """The plain value of a node."""
        self._count += 1
        if node.__class__ is ScalarNode:
            if not node.tag:
                value = node.value
                return value if node.style else plain_value(value)
            return self._tagged(node)
        known = self._built.get(id(node))
        if known is not None:
            return self._again(node, *known)
        if id(node) in self._open:
            self._note("K105", "a value contains itself through its alias", node, hint="remove the alias")
            return None
        return self._collection(node)

    def _collection(self, node: Node) -> Any:
        before = self._count
        self._open.add(id(node))
        if node.tag and node.tag != _COLLECTION_TAGS.get(type(node)):
            self._unknown_tag(node)
        value: Any
        if node.__class__ is MappingNode:
            value = self._mapping(node)
        else:
            build = self.build
            value = [build(item) for item in node.value]
        self._open.discard(id(node))
        self._built[id(node)] = value, self._count - before
        return value

    def _again(self, node: Node, value: Any, size: int) -> Any:
        """A collection met a second time, through an alias."""
        self._aliased += size + 1
        self._count += size
        if self._aliased <= MAX_ALIASED:
            return value
        if self._aliased - size - 1 <= MAX_ALIASED:
            message = f"the aliases of this document stand for more than {MAX_ALIASED:,} values"
            self._note("K105", message, node, hint="write the values out, or use a loop")
        return None

    def _mapping(self, node: Node) -> dict[Any, Any] | str:
        build = self.build
        built: dict[Any, Any] = {}
        merges: list[Node] = []
        for key_node, value_node in node.value:
            if key_node.__class__ is not ScalarNode:
                if self._is_bare_template(key_node):
                    return self._document.text[node.start_mark.index : node.end_mark.index]
                self._note("K109", "a key must be a plain text", key_node)
                continue
            key = key_node.value
            if not key_node.style:
                if key == "<<":
                    merges.append(value_node)
                    continue
                key = plain_value(key)
            if key in built:
                self._duplicate(node, key_node, key)
            value = build(value_node)
            built[key] = value
            if value.__class__ in _NUMBERS and is_padded_number(value_node.value) and not value_node.style:
                self._padded(value_node)
        for merge in merges:
            self._merge(built, merge)
        return built

    def _merge(self, built: dict[Any, Any], node: Node) -> None:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, MappingNode):
                self._note("K104", "`<<` merges a mapping, or a list of mappings", node)
                return
            merged = self.build(source)
            if isinstance(merged, dict):
                built.update({key: value for key, value in merged.items() if key not in built})

    def _tagged(self, node: Node) -> Any:
        try:
            return tagged_value(node.tag, node.value)
        except KeyError:
            self._unknown_tag(node)
        except ValueError as error:
            self._note("K104", str(error).replace(_CORE, "!!"), node)
        return node.value

    def _unknown_tag(self, node: Node) -> None:
        tag = node.tag.replace(_CORE, "!!")
        self._note(
            "K104", f"the tag {tag} has no meaning here", node, hint="remove the tag; quote a text that needs it"
        )

    def _is_bare_template(self, node: Node) -> bool:
        """Whether a key is the inner brace of `{{ … }}` without quotes; notes it, and the text stands for itself."""
        start = node.start_mark.index
        if not self._document.text.startswith("{{", start - 1):
            return False
        self._document.problems.append(bare_template(self._document, start - 1))
        return True

    def _duplicate(self, node: Node, key_node: Node, key: Any) -> None:
        first = next(k for k, _ in node.value if isinstance(k, ScalarNode) and _key(k) == key)
        line = self._document.place_at(first.start_mark.index).line
        self._note("K106", f"duplicate key `{key_node.value}`", key_node, hint=f"the first one is in line {line}")

    def _padded(self, node: Node) -> None:
        self._note(
            "K108",
            f"{node.value} may mean {int(node.value)} or a text",
            node,
            hint=f'write {int(node.value)}, or quote it: "{node.value}"',
        )

    def _note(self, code: str, message: str, node: Node, *, hint: str = "") -> None:
        start = node.start_mark.index
        self._document.problems.append(
            self._document.problem_at(code, message, start, node.end_mark.index - start, hint=hint)
        )


_NUMBERS = frozenset({int, float})


Pairs = dict[int, dict[Any, tuple[Node, Node]]]
"""The keys and values of mappings by the key, for mappings by their identity."""


def child(node: Node, step: str | int, known: Pairs, *, key: bool = False) -> Node | None:
    """The node below `node` at a key or an index, or (with `key`) the key's own node; None when there is none.

    Args:
        node: Where to look.
        step: The key or the index.
        known: What was found of mappings before: one is gone through once, however many of its values are asked for.
        key: The key's own node.
    """
    if isinstance(node, SequenceNode):
        items: list[Node] = node.value
        return items[step] if isinstance(step, int) and 0 <= step < len(items) else None
    if not isinstance(node, MappingNode):
        return None
    if id(node) not in known:
        pairs: list[tuple[Node, Node]] = node.value
        known[id(node)] = {_key(pair[0]): pair for pair in pairs if isinstance(pair[0], ScalarNode)}
    pair = known[id(node)].get(step)
    if pair is not None:
        return pair[0] if key else pair[1]
    found = (child(source, step, known, key=key) for source in _merged(node))
    return next((hit for hit in found if hit is not None), None)


def _merged(node: MappingNode) -> Iterator[Node]:
    """The mappings that `<<` brings into a mapping."""
    for key_node, value_node in node.value:
        if key_node.value == "<<" and not key_node.style:
            sources = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
            yield from (source for source in sources if isinstance(source, MappingNode) and source is not node)


def _key(node: ScalarNode) -> Any:
    return node.value if node.style else plain_value(node.value)
