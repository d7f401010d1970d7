"""The page on stack files has every key of the file, of a service, and of each connection that comes with k2run."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING

import msgspec
import yaml

import k2run.adapters
from k2run.actions.connection import Connection
from k2run.language.document import read_document
from k2run.stack.model import Ready, Service
from k2run.stack.validation import KEYS, problems_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "stacks.md").read_text(encoding="utf-8")


def _connections(of: type[Connection] = Connection) -> Iterator[type[Connection]]:
    for each in of.__subclasses__():
        yield each
        yield from _connections(each)


def test_every_key_of_the_file_and_of_a_service_is_described() -> None:
    keys = {*KEYS, *Service.__struct_fields__, *Ready.__struct_fields__} - {"name"}
    assert [key for key in sorted(keys) if f"`{key}`" not in PAGE and f"`{key}:" not in PAGE] == []


def test_every_connection_is_described_with_its_settings() -> None:
    for module in walk_packages(k2run.adapters.__path__, "k2run.adapters."):
        import_module(module.name)
    rows = {
        name: row
        for row in PAGE.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    missing = [
        f"{each.key}.{field.name}"
        for each in _connections()
        if each.key and each.key != "services" and each.__module__.startswith("k2run.")
        for field in msgspec.structs.fields(each)
        if f"`{field.name}`" not in rows.get(each.key, "")
    ]
    assert missing == []


def test_the_example_is_a_valid_stack_file() -> None:
    [example] = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if text.startswith("stack:")]
    assert yaml.safe_load(example)["stack"] == 1
    assert problems_of(read_document(example, "stack.yaml")) == []
