"""Turn a Chaos Toolkit experiment into a runbook: `k2run import chaos FILE`.

The steady-state hypothesis becomes `steady_state`, checked before the method, and a section that checks it again
after it. The method becomes sections whose failed steps are warnings, since only the hypothesis decides an experiment;
rollbacks become `always`.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, indent
from typing import TYPE_CHECKING, Any

import yaml

from k2run.actions.catalogue import Catalogue
from k2run.authoring.chaos.activities import CALL_PYTHON, NO_LIMIT, PROGRAM, Providers, Tolerances, in_seconds
from k2run.authoring.chaos.values import Notes, Part, Texts, listed, mapping, read_settings, written
from k2run.authoring.new import schema_from
from k2run.errors import UsageError
from k2run.language.document import read_file, read_text
from k2run.language.loader import parse_runbook
from k2run.language.nodes import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.authoring.chaos.activities import Output
    from k2run.language.document import Document

FORMATS = ("chaos",)


def import_file(form: str, file: Path, *, folder: Path = Path("runbooks")) -> Path:
    """Write the runbook that does what a file of another tool does; stderr lists what was not converted.

    Raises:
        UsageError: The format is unknown, the file is missing, or the runbook exists.
        RunbookInvalid: The experiment has in it what no runbook can say (such as 5,000 characters of a pattern).
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format {form!r}", hint=f"k2run import {FORMATS[0]} FILE")
    experiment = read_experiment(file)
    name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-") or "experiment"
    path = folder / f"{name}.yaml"
    if path.exists():
        raise UsageError(f"{path} already exists", hint="remove it, or choose another --folder")
    made = convert(experiment, name, folder=folder)
    for about, remark in made.remarks:
        print(f"{about}: {remark}", file=sys.stderr)
    parse_runbook(made.text, str(path), Catalogue(), home=folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(made.text, encoding="utf-8")
    return path


_WIDTH = 110
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh"})
_NO_TIMEOUT = f"What has no timeout there may take {NO_LIMIT} here."
_SILENT = ("version", "title", "description", "tags", "steady-state-hypothesis", "method", "rollbacks")
_READ = (*_SILENT, "configuration", "secrets")


@dataclass(frozen=True)
class Converted:
    """What became of an experiment.

    Attributes:
        remarks: What was not carried over, each with the name of what it is about.
    """

    text: str
    remarks: tuple[tuple[str, str], ...]


_SHALLOW = f"at most {MAX_DEPTH} levels"


def read_experiment(path: Path) -> dict[str, Any]:
    """The experiment in a JSON or YAML file.

    Raises:
        UsageError: There is no such file, or no experiment in it.
    """
    data: Any
    if path.suffix in (".yaml", ".yml"):
        data = _as_pyyaml_reads(read_file(path))
    else:
        try:
            data = json.loads(read_text(path))
        except RecursionError as error:
            raise UsageError(f"{path} is nested too deeply", hint=_SHALLOW) from error
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    if _is_deep(data):
        raise UsageError(f"{path} is nested too deeply", hint=_SHALLOW)
    if not isinstance(data, dict) or not ({"method", "steady-state-hypothesis"} & set(data)):
        raise UsageError(
            f"{path} is not a Chaos Toolkit experiment",
            hint="it needs a `method` or a `steady-state-hypothesis`",
        )
    return data


def _as_pyyaml_reads(document: Document) -> Any:
    """The values that Chaos Toolkit finds: those of YAML 1.1, where `yes` and `no` are true and false."""
    try:
        found = yaml.load(document.text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{document.file} is not YAML as Chaos Toolkit reads it: {error}") from error
    return json.loads(json.dumps(found, default=str))  # dates are texts


def _is_deep(data: Any) -> bool:
    """Whether a value is nested more deeply than a runbook may be."""
    level = [data]
    for _ in range(MAX_DEPTH):
        inner = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [item for items in inner if isinstance(items, list) for item in items]
    return bool(level)


def convert(experiment: dict[str, Any], name: str, *, folder: Path) -> Converted:
    """The runbook that does what an experiment does."""
    return _Conversion(experiment, name, folder).convert()


class _Conversion:
    """Converts one experiment."""

    def __init__(self, experiment: dict[str, Any], name: str, folder: Path) -> None:
        self._experiment = experiment
        self._name = name
        self._folder = folder
        self._notes = Notes()
        self._settings = read_settings(experiment, self._notes)
        texts = Texts(self._settings.names)
        self._texts = texts
        self._providers = Providers(texts, self._notes, self._settings.configuration, self._settings.secrets)
        self._tolerances = Tolerances(texts, self._notes)

    def convert(self) -> Converted:
        setting_comments = self._notes.take()
        self._leftovers()
        leftover_comments = self._notes.take()
        hypothesis = mapping(self._experiment.get("steady-state-hypothesis"))
        steady = [part for probe in _dicts(hypothesis.get("probes")) for part in self._steps(probe, judged=True)]
        sections = self._sections(_dicts(self._experiment.get("method")))
        always = [part for step in _dicts(self._experiment.get("rollbacks")) for part in self._steps(step)]
        parts = [
            self._heading(leftover_comments),
            self._values(setting_comments),
            f"steady_state: &steady_state\n{indent(listed(steady), '  ')}" if steady else "",
            f"sections:\n{indent(sections + self._again(hypothesis, steady), '  ')}",
            f"always:\n{indent(listed(always), '  ')}" if always else "",
        ]
        return Converted("\n".join(part for part in parts if part), tuple(self._notes.said))

    # --- the parts of the runbook ------------------------------------------------------------------------------------

    def _heading(self, comments: list[str]) -> str:
        experiment = self._experiment
        value: dict[str, Any] = {"runbook": 1, "kind": "scenario", "name": self._name}
        value["title"] = str(experiment.get("title") or self._name)
        if experiment.get("description"):
            value["description"] = str(experiment["description"])
        if experiment.get("tags"):
            value["tags"] = [str(tag) for tag in experiment["tags"]]
        header = f"# yaml-language-server: $schema={schema_from(self._folder)}\n"
        told = ["", "From a Chaos Toolkit experiment.", _NO_TIMEOUT, *_not_mapped(comments)]
        return header + written(Part(value, told))

    def _values(self, comments: list[str]) -> str:
        value: dict[str, Any] = {}
        if self._settings.inputs:
            value["inputs"] = self._settings.inputs
        variables = dict(self._texts.rendered(self._settings.vars))
        if self._providers.calls_python:
            variables[CALL_PYTHON] = PROGRAM
        if variables:
            value["vars"] = variables
        return written(Part(value, _not_mapped(comments))) if value else ""

    def _sections(self, method: list[dict[str, Any]]) -> str:
        """The method in sections: from the first background activity on, a section of steps at once."""
        first = next((at for at, activity in enumerate(method) if activity.get("background")), len(method))
        before = [part for activity in method[:first] for part in self._steps(activity)]
        text = _section("Method", before) if before else ""
        rest = method[first:]
        if not rest:
            return text
        until = next((at for at, activity in enumerate(rest) if not activity.get("background")), len(rest))
        at_once = [self._as_one(activity) for activity in rest[:until]]
        after = [part for activity in rest[until:] for part in self._in_turn(activity)]
        if after:
            at_once.append(_block("Meanwhile", after))
        return text + _section("Method, in the background", at_once, parallel=True)

    def _in_turn(self, activity: dict[str, Any]) -> list[Part]:
        if activity.get("background"):
            self._notes.say(str(activity.get("name")), "runs in sequence here, not in the background")
        return self._steps(activity)

    def _as_one(self, activity: dict[str, Any]) -> Part:
        parts = self._steps(activity)
        return parts[0] if len(parts) == 1 else _block(str(activity.get("name", "Activity")), parts)

    def _again(self, hypothesis: dict[str, Any], steady: list[Part]) -> str:
        """Check the hypothesis after the method, in a section: k2run knows of no fault before it."""
        if not steady:
            return ""
        title = str(hypothesis.get("title") or "The hypothesis")
        return written(Part({"name": f"Again: {title}"})).replace("name:", "- name:", 1) + "  steps: *steady_state\n"

    def _leftovers(self) -> None:
        for key in self._experiment:
            if key not in _READ:
                self._notes.say("experiment", f"`{key}` of the experiment was left out")

    # --- activities ---------------------------------------------------------------------------------------------------

    def _steps(self, activity: dict[str, Any], *, judged: bool = False) -> list[Part]:
        """An activity with its pauses; its tolerance decides where it is `judged` as a part of the hypothesis."""
        activity = self._resolved(activity)
        pauses = mapping(activity.get("pauses"))
        step = self._step(activity, judged=judged)
        before, after = (self._pause(pauses[key]) if pauses.get(key) else [] for key in ("before", "after"))
        return [*before, step, *after]

    def _resolved(self, activity: dict[str, Any]) -> dict[str, Any]:
        """What a `ref` names."""
        if "ref" not in activity:
            return activity
        everything = json.loads(json.dumps(self._experiment))
        named = (found for found in _activities(everything) if found.get("name") == activity["ref"])
        return next(named, {"name": str(activity["ref"])})

    def _pause(self, seconds: Any) -> list[Part]:
        time = in_seconds(seconds) if isinstance(seconds, int | float) else f"{self._texts.rendered(str(seconds))}s"
        return [Part({"wait": {"for": time}})]

    def _step(self, activity: dict[str, Any], *, judged: bool) -> Part:
        name = str(activity.get("name") or "Unnamed")
        for key in ("controls", "dry"):
            if activity.get(key):
                self._notes.say(name, f"its `{key}` were left out")
        status = _wanted_status(activity) if judged else None
        answers = "any" if judged and status is None else "good"
        self._texts.take_unknown()
        made = self._providers.action(mapping(activity.get("provider")), name, answers=answers)
        if made is None:
            return self._by_hand(name, judged=judged)
        step, output = made
        if status is not None:
            _accept(step, status)
        expected = "" if status is not None else self._expected(activity, output, name, judged=judged)
        unknown = self._texts.take_unknown(_shell_text(activity))
        if unknown:
            self._notes.say(name, f"nothing in the experiment defines {', '.join(map(_dollar, unknown))}")
            return self._by_hand(name, judged=judged)
        if judged and status is None and not expected:
            return self._judged_by_hand(name, step, output)
        value: dict[str, Any] = {"name": _title(name), **step}
        if expected:
            value["expect"] = expected
        if not judged:
            value["severity"] = "warning"
        return Part(value, _not_mapped(self._notes.take()))

    def _expected(self, activity: dict[str, Any], output: Output, name: str, *, judged: bool) -> str:
        """The expectation of a tolerance; "" where it cannot be written."""
        if activity.get("tolerance") is not None:
            return self._tolerances.expression(activity["tolerance"], output, name)
        if judged:
            self._notes.say(name, "it has no tolerance, so nothing says which result is good")
        return ""

    def _judged_by_hand(self, name: str, step: dict[str, Any], output: Output) -> Part:
        """A probe whose tolerance cannot be written: run it, and ask the operator to judge the result."""
        given = "probed.stdout" if output.whole or ("stdout", "result.stdout") in output.parts else "probed.text"
        asks = {"that": f"{_title(name)}: it gave {{{{ {given} }}}}, which is as expected"}
        asked = {"name": f"{_title(name)}: ask", **step, "register": "probed"}
        block = [asked, {"name": f"{_title(name)}: judged by hand", "manual.confirm": asks}]
        return Part({"name": _title(name), "block": block}, _not_mapped(self._notes.take()))

    def _by_hand(self, name: str, *, judged: bool) -> Part:
        """A person does what no action does; an unattended run says that it was not confirmed."""
        value = {"name": _title(name), "manual.confirm": {"that": f"{_title(name)}: done by hand"}}
        return Part(value if judged else {**value, "severity": "warning"}, _not_mapped(self._notes.take()))


def _shell_text(activity: dict[str, Any]) -> str:
    """What a shell reads of an activity, whose own variables are written alike; "" where none does."""
    provider = mapping(activity.get("provider"))
    given = provider.get("arguments")
    if provider.get("type") != "process":
        return ""
    if isinstance(given, str):
        return given
    shell = str(provider.get("path", "")).rpartition("/")[2] in _SHELLS
    return " ".join(map(str, given)) if shell and isinstance(given, list) else ""


def _dollar(name: str) -> str:
    return f"${{{name}}}"


def _wanted_status(activity: dict[str, Any]) -> int | list[int] | None:
    """The status that a tolerance asks for, where that is all it asks for."""
    tolerance, kind = activity.get("tolerance"), mapping(activity.get("provider")).get("type")
    if kind not in ("http", "process"):
        return None
    if isinstance(tolerance, int) and not isinstance(tolerance, bool):
        return tolerance
    listed = isinstance(tolerance, list) and tolerance and all(type(item) is int for item in tolerance)
    return tolerance if listed else None


def _accept(step: dict[str, Any], status: int | list[int]) -> None:
    if "shell.run" in step:
        step["shell.run"]["ok_codes"] = status if isinstance(status, list) else [status]
    else:
        next(args for key, args in step.items() if key.startswith("http."))["status"] = status


def _section(name: str, parts: list[Part], *, parallel: bool = False) -> str:
    head: dict[str, Any] = {"name": name, **({"parallel": True} if parallel else {}), "after_failure": "continue"}
    return "- " + indent(written(Part(head)) + "steps:\n" + indent(listed(parts), "  "), "  ").removeprefix("  ")


def _block(name: str, parts: list[Part]) -> Part:
    comments = [comment for part in parts for comment in part.comments]
    return Part({"name": _title(name), "block": [part.value for part in parts]}, comments)


def _title(name: str) -> str:
    return re.sub(r"\{(?=[{%])", "(", name)


def _not_mapped(comments: Iterable[str]) -> list[str]:
    return [fill(f"not carried over: {comment}", _WIDTH) for comment in comments]


def _activities(experiment: dict[str, Any]) -> list[dict[str, Any]]:
    hypothesis = mapping(experiment.get("steady-state-hypothesis"))
    return [*_dicts(hypothesis.get("probes")), *_dicts(experiment.get("method")), *_dicts(experiment.get("rollbacks"))]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
