"""YAML text to plain values, with the place of every key and value at hand when something is wrong with it.

The C parser of PyYAML composes nodes; values are built from them by the core schema of YAML 1.2.
"""

from __future__ import annotations

import gc
from bisect import bisect_right
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from k2run.errors import RunbookInvalid, UsageError
from k2run.language.nodes import MAX_DEPTH, Builder, Pairs, TooDeep, child
from k2run.language.problems import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from yaml.nodes import Node


_BLANK = " \t\r\n"
_ESCAPES = {"x": 4, "u": 6, "U": 10}
"""Characters of a numeric escape in double quotes, backslash included."""


def token_length(text: str, node: Node, start: int) -> int:
    """Characters to underline from `start`: the rest of a scalar, the first key of a mapping, on its first line."""
    if isinstance(node, ScalarNode):
        end = node.end_mark.index
        if node.style in ("|", ">") and start == node.start_mark.index:
            end = start + 1
    elif text[start : start + 1] in ("{", "["):
        end = node.end_mark.index
    elif node.value:
        first = node.value[0]
        first = first[0] if isinstance(first, tuple) else first
        end = first.end_mark.index if isinstance(first, ScalarNode) else start + 1
    else:
        end = start + 1
    line_end = text.find("\n", start)
    return max(1, min(end, line_end if line_end >= 0 else len(text)) - start)


def inside(text: str, node: ScalarNode, at: int) -> int:
    """The offset in `text` of character `at` of the scalar's value."""
    start, end = node.start_mark.index, node.end_mark.index
    if node.style in ("'", '"'):
        start, end = start + 1, end - 1
    elif node.style in ("|", ">"):
        start = text.find("\n", start, end) + 1
    if text.startswith(node.value[: at + 1], start):
        return int(start + at)
    return min(_aligned(text, node, at, start), max(end - 1, start))


def _aligned(text: str, node: ScalarNode, at: int, start: int) -> int:
    """Walk value and source side by side through folding, indentation and escapes."""
    value, here = node.value, start
    for wanted in value[:at]:
        here = _find(text, wanted, here, node.style)
        here += _width(text, wanted, here, node.style)
    return _find(text, value[at], here, node.style) if at < len(value) else here


def _find(text: str, wanted: str, here: int, style: str) -> int:
    """Skip the indentation (and escaped line ends) that stand before the next character of the value."""
    while here < len(text) and text[here] != wanted:
        if style == '"' and text.startswith("\\\n", here):
            here += 2
        elif text[here] in _BLANK and wanted not in _BLANK:
            here += 1
        else:
            break
    return here


def _width(text: str, wanted: str, here: int, style: str) -> int:
    """How many characters of the source make one character of the value."""
    if style == '"' and text.startswith("\\", here):
        return _ESCAPES.get(text[here + 1 : here + 2], 2)
    if style == "'" and text.startswith("''", here):
        return 2
    if wanted in _BLANK and text[here : here + 1] in tuple(_BLANK) and text[here : here + 1] != wanted:
        end = here
        while end < len(text) and text[end] in _BLANK:
            end += 1
        return end - here
    return 1


Trail = tuple[str | int, ...]
"""Keys and indexes from the top of a document to a value."""

MAX_BYTES = 2 * 1024 * 1024
"""Size of a file that is read at all: what a person has written is smaller, and reading takes time in proportion."""
LONGEST_LINE = 1_000_000
"""Characters of a line that a problem quotes; it is shown around its caret."""


class Document:
    """A YAML document as plain values that remembers where each of them stands.

    Attributes:
        text: The whole text.
        file: Its name, for places.
        data: Plain values: dict, list, str, int, float, bool, None.
        problems: What is wrong with the YAML itself, though it can be read (a duplicate key, an unknown tag).
    """

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.data: Any = None
        self.problems: list[Problem] = []
        self._root: Node | None = None
        self._parents: dict[Trail, Node] = {}
        self._pairs: Pairs = {}

    def place(self, path: Trail, *, key: bool = False) -> Place:
        """Where the value at `path` begins; with `key`, where its key does."""
        return self.place_at(self._node(path, key=key).start_mark.index)

    def problem(  # noqa: PLR0913 - the fields of a problem
        self,
        code: str,
        message: str,
        path: Trail,
        *,
        key: bool = False,
        at: int | None = None,
        length: int | None = None,
        expected: str = "",
        found: str = "",
        hint: str = "",
    ) -> Problem:
        """A problem with the value (or the key) at `path`.

        Args:
            code: Stable code, such as K301.
            message: What is wrong, in one sentence without a full stop.
            path: Keys and indexes to the value.
            key: Point at the key instead of the value; an empty value is always shown by its key.
            at: Offset of the wrong token inside a text value, in characters.
            length: Characters of the wrong token; the whole value when not given.
            expected: What could stand there.
            found: What stands there.
            hint: How to put it right.
        """
        node = self._node(path, key=key)
        start = node.start_mark.index
        if start == node.end_mark.index and path and not key:
            node = self._node(path, key=True)
            start = node.start_mark.index
        elif at is not None and isinstance(node, ScalarNode):
            start = inside(self.text, node, at)
        span = token_length(self.text, node, start) if length is None else length
        return self.problem_at(code, message, start, span, expected=expected, found=found, hint=hint)

    def problem_at(  # noqa: PLR0913 - the fields of a problem
        self,
        code: str,
        message: str,
        offset: int,
        length: int = 1,
        *,
        expected: str = "",
        found: str = "",
        hint: str = "",
    ) -> Problem:
        """A problem at a character offset of the text."""
        place = self.place_at(offset)
        start = self._starts[place.line - 1]
        end = self.text.find("\n", start, start + LONGEST_LINE)
        line = self.text[start : end if end >= 0 else start + LONGEST_LINE].rstrip("\r")
        return Problem(
            code=code,
            message=message,
            place=place,
            length=max(1, min(length, len(line) - place.column + 1)),
            expected=expected,
            found=found,
            hint=hint,
            line=line,
        )

    def place_at(self, offset: int) -> Place:
        """The place of a character offset of the text."""
        line = bisect_right(self._starts, offset)
        return Place(self.file, line, offset - self._starts[line - 1] + 1)

    @cached_property
    def _starts(self) -> list[int]:
        """Offset of the first character of every line."""
        starts, at = [0], self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    def _node(self, path: Trail, *, key: bool) -> Node:
        """The node at `path`, or the nearest one above it that exists."""
        if self._root is None:
            nowhere: Node = _NOWHERE
            return nowhere
        if not path:
            return self._root
        above = path[:-1]
        parent = self._parents.get(above)
        if parent is None:
            parent = self._parents[above] = self._node(above, key=False)
        return child(parent, path[-1], self._pairs, key=key) or parent


def read_file(path: Path, name: str = "") -> Document:
    """Read a file as `read_document` does; places call it `name`, or by its path when that is empty.

    Raises:
        UsageError: There is no such file, or it cannot be read.
        RunbookInvalid: It is not UTF-8, or not YAML.
    """
    return read_document(read_text(path), name or str(path))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: There is no such file, or it cannot be read.
        RunbookInvalid: It is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", hint="check the path") from error
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES // 1024**2} MiB", hint="is it the right file? or split it")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        document = Document(raw[: error.start].decode("utf-8") + "\ufffd", str(path))
        problem = document.problem_at(
            "K101",
            f"byte 0x{raw[error.start]:02x} is not UTF-8",
            error.start and len(document.text) - 1,
            hint="save the file as UTF-8",
        )
        raise RunbookInvalid([problem]) from error


def read_document(text: str, file: str) -> Document:
    """Read one YAML document.

    Raises:
        RunbookInvalid: It is not YAML, or not only YAML's plain values; with every problem.
    """
    document = compose(text, file)
    if document.problems:
        raise RunbookInvalid(document.problems)
    return document


def compose(text: str, file: str) -> Document:
    """Read one YAML document; problems that leave it readable are kept in it.

    Raises:
        RunbookInvalid: It is not YAML at all.
    """
    document = Document(text.removeprefix("\ufeff"), file)
    with without_collection():
        document._root = _compose(document)  # noqa: SLF001 - this function is the constructor
        if document._root is not None:  # noqa: SLF001
            builder = Builder(document)
            document.data = builder.build(document._root)  # noqa: SLF001
    return document


def _compose(document: Document) -> Node | None:
    try:
        root: Node | None = _Composer(document.text).get_single_node()
    except (yaml.YAMLError, TooDeep, UnicodeEncodeError) as error:
        from k2run.language.yaml_faults import explain

        raise RunbookInvalid([explain(document, error)]) from None
    return root


class _Composer(yaml.cyaml.CParser):  # type: ignore[name-defined,misc] # the stubs know the C parser by no name
    """The C parser with the work of resolving tags left out: an implicit tag is "", the builder reads plain text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def resolve(self, _kind: type, _value: str | None, _implicit: tuple[bool, bool]) -> str:
        return ""

    def descend_resolver(self, parent: Node | None, _index: object) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeep(parent.start_mark.index if parent else 0)

    def ascend_resolver(self) -> None:
        self._depth -= 1


@contextmanager
def without_collection() -> Iterator[None]:
    """Without the cycle collector, which would walk the growing tree again and again: two thirds of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Start:
    index = 0


_NOWHERE: Any = MappingNode("", [], cast("Any", _Start()), cast("Any", _Start()))
"""Stands for the whole of an empty document."""
