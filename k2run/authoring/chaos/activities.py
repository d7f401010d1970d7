"""Activities of an experiment: providers as actions of a step, tolerances as its expectations."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from k2run.language.filters import search

if TYPE_CHECKING:
    from k2run.authoring.chaos.values import Notes, Texts

_STEP = re.compile(r"\.(\*|[\w-]+)|\[(\*|-?\d+|'[^']*'|\"[^\"]*\")\]")
_BOUNDS = 2


@dataclass(frozen=True)
class Output:
    """What a provider hands to its tolerance, in the words of the step that takes its place.

    Attributes:
        whole: The expression of the whole value, where it is one.
        status: The expression of its status, where it has one.
        parts: The expressions of its named parts, as text.
    """

    whole: str = ""
    status: str = ""
    parts: tuple[tuple[str, str], ...] = ()

    def part(self, name: str) -> str:
        """The expression of a part, or of the whole value when there is no such part."""
        return dict(self.parts).get(name) or self.whole


class Tolerances:
    """Writes tolerances as expressions."""

    def __init__(self, texts: Texts, notes: Notes) -> None:
        self._texts = texts
        self._notes = notes

    def expression(self, tolerance: Any, output: Output, about: str) -> str:
        """What must be true of `result`; "" where it cannot be said.

        Args:
            tolerance: As the experiment has it.
            output: What the probe gives.
            about: The name of the probe, for remarks.
        """
        if isinstance(tolerance, dict):
            return self._declared(tolerance, output, about)
        if isinstance(tolerance, list):
            return self._among(tolerance, output)
        if isinstance(tolerance, int) and not isinstance(tolerance, bool) and output.status:
            return f"{output.status} == {tolerance}"
        if not output.whole:
            self._notes.say(
                about, f"the tolerance {json.dumps(tolerance)} compares a whole answer: say what of it counts"
            )
            return ""
        return f"{output.whole} == {self._texts.expression(tolerance)}"

    def _among(self, tolerance: list[Any], output: Output) -> str:
        if output.status:
            return f"{output.status} in {self._texts.expression(tolerance)}"
        if len(tolerance) == _BOUNDS:
            low, high = map(self._texts.expression, tolerance)
            return f"{low} <= {output.whole} <= {high}"
        return f"{output.whole} in {self._texts.expression(tolerance)}"

    def _declared(self, tolerance: dict[str, Any], output: Output, about: str) -> str:
        kind, target = tolerance.get("type"), str(tolerance.get("target") or "")
        if kind == "jsonpath":
            return self._json_path(tolerance, output, about)
        value = output.part(target)
        if kind == "range" and value:
            low, high = map(self._texts.expression, tolerance.get("range", [0, 0]))
            return f"{low} <= ({value}) | float <= {high}"
        if kind == "regex" and value:
            return self._regex(str(tolerance.get("pattern", "")), value, about)
        self._notes.say(about, f"its tolerance of type {kind} could not be carried over: write an `expect`")
        return ""

    def _regex(self, pattern: str, value: str, about: str) -> str:
        try:
            search("", pattern)
        except ValueError as error:
            self._notes.say(about, f"the pattern {pattern!r} is not one of k2run's: {error}")
            return ""
        return f"{value} | search({self._texts.expression(pattern)})"

    def _json_path(self, tolerance: dict[str, Any], output: Output, about: str) -> str:
        path = str(tolerance.get("path", ""))
        steps = _steps(path)
        if steps is None:
            self._notes.say(about, f"the JSON path {path} has filters, slices or `..` in it: write an `expect`")
            return ""
        base, steps = self._base(steps, output, str(tolerance.get("target") or ""))
        if not base:
            self._notes.say(about, f"the JSON path {path} matches the whole answer: write an `expect`")
            return ""
        return self._found(base, steps, tolerance)

    def _base(self, steps: list[Any], output: Output, target: str) -> tuple[str, list[Any]]:
        """Where a path begins: in a part of the answer, read as JSON, or in the whole of it."""
        if not target and output.parts and steps and steps[0] in dict(output.parts):
            target, steps = str(steps[0]), steps[1:]
            if not steps:
                return dict(output.parts)[target], steps
        if target and output.parts:
            part = dict(output.parts).get(target, "")
            return (part if target in ("status", "headers") else f"({part} | from_json)") if part else "", steps
        return output.whole, steps

    def _found(self, base: str, steps: list[Any], tolerance: dict[str, Any]) -> str:
        before, star, after = _around_star(steps)
        value = base + "".join(f"[{self._texts.expression(step)}]" for step in before)
        if star:
            names = ".".join(map(str, after))
            value = f"{value} | map(attribute='{names}') | list" if after else f"{value} | list"
        conditions = []
        if "expect" in tolerance:
            expected = tolerance["expect"]
            listed = expected if isinstance(expected, list) else [expected]
            given = f"({value})" if star else f"[{value}]"
            conditions.append(f"{given} == {self._texts.expression(listed)}")
        elif star:
            count = tolerance.get("count")
            conditions.append(f"({value}) | length " + ("> 0" if count is None else f"== {count}"))
        else:
            conditions.append(f"{value} is {'not ' if tolerance.get('count') == 0 else ''}defined")
        return " and ".join(conditions)


def _steps(path: str) -> list[Any] | None:
    """The steps of a JSON path: names, indexes and at most one `*`; None when it has others."""
    rest = path.strip().removeprefix("$")
    if rest and rest[0] not in ".[":
        rest = f".{rest}"
    steps: list[Any] = []
    while rest:
        match = _STEP.match(rest)
        if match is None:
            return None
        word = match[1] or match[2]
        steps.append(int(word) if match[2] and word.lstrip("-").isdigit() else word.strip("'\""))
        rest = rest[match.end() :]
    plain_after = all(isinstance(step, str) for step in _around_star(steps)[2])
    return steps if steps.count("*") <= 1 and plain_after else None


def _around_star(steps: list[Any]) -> tuple[list[Any], bool, list[Any]]:
    if "*" not in steps:
        return steps, False, []
    at = steps.index("*")
    return steps[:at], True, steps[at + 1 :]


ANY_STATUS = "{{ range(100, 600) | list }}"
ANY_EXIT = "{{ range(-64, 256) | list }}"
NO_LIMIT = "24h"
"""For an activity without a timeout, which Chaos Toolkit never ends."""
CALL_PYTHON = "call_python"
"""The variable with the program that calls a Python function."""

PROGRAM = """\
import contextlib, importlib, inspect, json, sys
module, name = sys.argv[1:]
given = json.load(sys.stdin)
call = getattr(importlib.import_module(module), name)
takes = inspect.signature(call).parameters
more = {key: given[key] for key in ("configuration", "secrets") if key in takes and given[key]}
with contextlib.redirect_stdout(sys.stderr):
    value = call(**given["arguments"], **more)
print(json.dumps(value, default=str))
"""

HTTP = Output(
    status="result.status", parts=(("status", "result.status"), ("headers", "result.headers"), ("body", "result.text"))
)
PROCESS = Output(
    status="result.exit_code",
    parts=(("status", "result.exit_code"), ("stdout", "result.stdout"), ("stderr", "result.stderr")),
)
PYTHON = Output(whole="(result.stdout | from_json)")


class Providers:
    """Writes providers as actions.

    Args:
        texts: Writes their values.
        notes: Where remarks go.
        configuration: The experiment's configuration, by its names there, as expressions of the runbook.
        secrets: Its secrets, group by group, likewise.
    """

    def __init__(
        self, texts: Texts, notes: Notes, configuration: dict[str, str], secrets: dict[str, dict[str, str]]
    ) -> None:
        self._texts = texts
        self._notes = notes
        self._configuration = configuration
        self._secrets = secrets
        self.calls_python = False

    def action(self, provider: dict[str, Any], about: str, *, answers: str) -> tuple[dict[str, Any], Output] | None:
        """The action (and timeout) of a step, and what it gives; None for a provider that k2run has no action for.

        Args:
            provider: As the experiment has it.
            about: The name of the activity, for remarks.
            answers: Which answers let the action pass: `good` ones, or `any`, since a tolerance judges them.
        """
        kind = provider.get("type")
        if kind == "http":
            return self._http(provider, about, answers), HTTP
        if kind == "process":
            return self._process(provider, answers), PROCESS
        if kind == "python":
            return self._python(provider), PYTHON
        self._notes.say(about, f"no action for providers of type {kind}")
        return None

    def _http(self, provider: dict[str, Any], about: str, answers: str) -> dict[str, Any]:
        method = str(provider.get("method", "GET")).upper()
        headers = self._texts.rendered(provider.get("headers") or {})
        args: dict[str, Any] = {"url": self._texts.rendered(provider.get("url", ""))}
        given = provider.get("arguments")
        if method != "GET":
            args = {"method": method, **args}
            headers = self._content(args, given, headers)
        elif given:
            args["params"] = self._texts.rendered(given)
        if headers:
            args["headers"] = {name: str(value) for name, value in headers.items()}
        if provider.get("verify_tls") is False:
            args["tls"] = {"verify": False}
        if provider.get("max_retries") and method not in ("POST", "PATCH"):
            args["retries"] = provider["max_retries"]
        elif provider.get("max_retries"):
            self._notes.say(about, f"max_retries: a {method} is never sent twice")
        if answers == "any":
            args["status"] = ANY_STATUS
        return {"http.get" if method == "GET" else "http.request": args, **self._timeout(provider)}

    def _content(self, args: dict[str, Any], given: Any, headers: dict[str, str]) -> dict[str, str]:
        """Put what is sent into the arguments; returns the headers that go with it."""
        if given and headers.get("Content-Type") == "application/json":
            args["json"] = self._texts.rendered(given)
            return {name: value for name, value in headers.items() if name != "Content-Type"}
        if isinstance(given, dict) and given:
            args["body"] = "&".join(f"{quote_plus(str(name))}={self._encoded(value)}" for name, value in given.items())
            return {"Content-Type": "application/x-www-form-urlencoded", **headers}
        if given:
            args["body"] = self._texts.rendered(str(given))
        return headers

    def _encoded(self, value: Any) -> str:
        if isinstance(value, str) and self._texts.rendered(value) != value:
            return f"{{{{ ({self._texts.expression(value)}) | urlencode }}}}"
        return quote_plus(str(value))

    def _process(self, provider: dict[str, Any], answers: str) -> dict[str, Any]:
        path = str(Path(str(provider.get("path", ""))).expanduser())
        given = self._texts.rendered(provider.get("arguments") or [])
        if isinstance(given, str):
            command: Any = f"{shlex.quote(path)} {given}"
        else:
            listed = [word for pair in given.items() for word in pair] if isinstance(given, dict) else given
            command = [path, *(str(word) for word in listed if word not in (None, ""))]
        args: dict[str, Any] = {"command": command}
        if answers == "any":
            args["ok_codes"] = ANY_EXIT
        return {"shell.run": args, **self._timeout(provider)}

    def _python(self, provider: dict[str, Any]) -> dict[str, Any]:
        self.calls_python = True
        secrets = {
            name: value
            for group in provider.get("secrets") or ()
            for name, value in self._secrets.get(group, {}).items()
        }
        given = {
            "arguments": self._texts.expression(provider.get("arguments") or {}),
            "configuration": _mapping(self._configuration),
            "secrets": _mapping(secrets),
        }
        command = ["python3", "-c", f"{{{{ {CALL_PYTHON} }}}}", provider.get("module", ""), provider.get("func", "")]
        return {
            "shell.run": {"command": command, "stdin": f"{{{{ {_mapping(given)} | tojson }}}}"},
            **self._timeout(provider),
        }

    def _timeout(self, provider: dict[str, Any]) -> dict[str, Any]:
        limit = provider.get("timeout")
        seconds = sum(limit) if isinstance(limit, list) else limit
        if not isinstance(seconds, int | float) or seconds <= 0:
            return {"timeout": NO_LIMIT}
        return {"timeout": in_seconds(seconds)}


def in_seconds(seconds: float) -> str:
    """A number of seconds as a duration."""
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def _mapping(expressions: dict[str, str]) -> str:
    return "{" + ", ".join(f"'{name}': {value}" for name, value in expressions.items()) + "}"
