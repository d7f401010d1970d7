"""Tables about adapters: what each is for, on what it is tested, the settings of its connection, its extra."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from msgspec.structs import fields

from k2run.language.schema import described_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.actions.catalogue import Catalogue

    Rows = list[tuple[str, ...]]

TESTED_ON = "TESTED_ON"
"""A test module's mapping from the name of an adapter to the component that it is tested on."""
_DISTRIBUTION = re.compile(r"^[\w.-]+")


def adapter_rows(catalogue: Catalogue, tests: Path) -> Rows:
    """Each adapter: what it is for, in the words of its module, and on what it is tested.

    Args:
        catalogue: Where the adapters are found.
        tests: The folder of the tests.
    """
    tested = components_of(tests)
    return [(f"`{name}`", purpose(catalogue, name), tested.get(name, "not tested")) for name in catalogue.adapters()]


def purpose(catalogue: Catalogue, adapter: str) -> str:
    """The first paragraph of the docstring of the module with an adapter's actions."""
    modules = {action.call.__module__ for action in catalogue.all() if action.name.partition(".")[0] == adapter}
    own = min(modules, key=lambda name: (not name.startswith(f"{catalogue.package}."), name))
    doc = cleandoc(sys.modules[own].__doc__ or "").partition("\n\n")[0]
    return " ".join(doc.split()).removesuffix(".")


def components_of(tests: Path) -> dict[str, str]:
    """What each adapter is tested on, as the tests say.

    Args:
        tests: The folder of the tests.

    Raises:
        ValueError: Two tests say it of the same adapter.
    """
    found: dict[str, str] = {}
    for file in sorted(tests.rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        said = _assigned(text) if TESTED_ON in text else {}
        twice = said.keys() & found.keys()
        if twice:
            raise ValueError(f"{file}: {', '.join(sorted(twice))} is in another test's {TESTED_ON}, too")
        found |= said
    return found


def _assigned(text: str) -> dict[str, str]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [TESTED_ON]:
            said: dict[str, str] = ast.literal_eval(node.value)
            return said
    return {}


def connection_rows(catalogue: Catalogue) -> Rows:
    """Each connection of a stack file with its settings, in the words of its class."""
    return [(f"`{key}`", _settings(kind)) for key, kind in catalogue.connections().items()]


def _settings(kind: Any) -> str:
    words = described_arguments(cleandoc(kind.__doc__ or "").replace("Attributes:\n", "Args:\n"))
    said = ((field.encode_name, words.get(field.encode_name, "")) for field in fields(kind))
    return "<br>".join(f"`{name}`: {meaning.removesuffix('.')}" for name, meaning in said)


def extra_rows(catalogue: Catalogue, project: Path) -> Rows:
    """The extras that adapters have: what each is for, and what it installs.

    Args:
        catalogue: Where the adapters are found.
        project: The file `pyproject.toml`.
    """
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return [
        (f"`k2run[{name}]`", f"`{name}.*`", ", ".join(map(_name, needs)))
        for name, needs in sorted(extras.items())
        if name in catalogue.adapters()
    ]


def _name(requirement: str) -> str:
    found = _DISTRIBUTION.match(requirement)
    return found[0] if found else requirement
