"""Configuration and secrets of an experiment as the inputs and variables of a runbook."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from k2run.language.scope import RESERVED
from k2run.language.words import FUNCTIONS

if TYPE_CHECKING:
    from k2run.faces.authoring.chaos.notes import Notes

_TYPES = {"int": ("integer", int), "float": ("number", float), "bool": ("boolean", bool), "str": ("string", str)}


@dataclass
class Settings:
    """What an experiment is set up with.

    Attributes:
        inputs: The runbook's inputs.
        vars: The runbook's variables.
        configuration: The runbook's name of each value of the configuration.
        secrets: The runbook's name of each secret, group by group.
    """

    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """The runbook's name of everything that `${name}` may mean; the configuration comes first."""
        flat = {name: own for group in self.secrets.values() for name, own in group.items()}
        return {**flat, **self.configuration}


def read_settings(experiment: dict[str, Any], notes: Notes) -> Settings:
    """Read `configuration` and `secrets`."""
    made = Settings()
    for name, value in _mapping(experiment.get("configuration")).items():
        own = made.configuration[name] = _own_name(name, made, notes)
        _setting(made, own, name, value, notes)
    for group, members in _mapping(experiment.get("secrets")).items():
        for name, value in _mapping(members).items():
            own = _own_name(name, made, notes)
            made.secrets.setdefault(group, {})[name] = own
            made.inputs[own] = _secret(f"{group}.{name}", value, notes)
    return made


def _setting(made: Settings, own: str, name: str, value: Any, notes: Notes) -> None:
    if isinstance(value, dict) and value.get("type") == "env":
        made.inputs[own] = _from_environment(name, value, notes)
    elif isinstance(value, dict) and value.get("type") == "probe":
        notes.say(name, f"the value of {name} came from a probe; it must be given with -e")
        made.inputs[own] = {"type": "string", "required": True, "help": f"configuration {name} of the experiment"}
    elif isinstance(value, bool | int | float | str) and "$" not in str(value):
        kind = next(kind for kind, python in _TYPES.values() if type(value) is python)
        made.inputs[own] = {"type": kind, "default": value, "help": f"configuration {name} of the experiment"}
    else:
        made.vars[own] = value


def _from_environment(name: str, value: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """An input whose default is that of the environment variable, or which is read from it as a secret is."""
    key = value.get("key", name)
    told = f"configuration {name} of the experiment"
    kind, python = _TYPES.get(str(value.get("env_var_type") or "str"), _TYPES["str"])
    if "default" not in value:
        if kind != "string":
            notes.say(name, f"{name} came from ${key} as {kind}; it must be given: -e {name}=${key}")
            return {"type": kind, "required": True, "help": told}
        return {"type": "secret", "default": f"env:{key}", "help": f"{told}, from the environment"}
    notes.say(name, f"{name} came from ${key} where that was set; give it with -e {name}=${key}")
    return {"type": kind, "default": python(value["default"]), "help": told}


def _secret(name: str, value: Any, notes: Notes) -> dict[str, Any]:
    told = f"secret {name} of the experiment"
    if isinstance(value, dict) and value.get("type") == "env":
        return {"type": "secret", "default": f"env:{value.get('key', name)}", "help": told}
    what = f"of type {value.get('type')}" if isinstance(value, dict) else "in plain text"
    notes.say(name, f"the secret {name} was {what}; it must be given: -e NAME=env:VARIABLE, or give it a default")
    return {"type": "secret", "required": True, "help": told}


def _own_name(name: str, made: Settings, notes: Notes) -> str:
    """A name that expressions may use."""
    own = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_") or "value"
    if own[0].isdigit() or own in RESERVED or own in FUNCTIONS:
        own = f"the_{own}"
    while own in made.inputs or own in made.vars:
        own += "_"
    if own != name:
        notes.say(name, f"the name {name} became {own}")
    return own


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
