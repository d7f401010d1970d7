"""Providers of an experiment's activities as actions of a step."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from k2run.faces.authoring.chaos.tolerances import Output

if TYPE_CHECKING:
    from k2run.faces.authoring.chaos.notes import Notes
    from k2run.faces.authoring.chaos.texts import Texts

ANY_STATUS = "{{ range(100, 600) | list }}"
ANY_EXIT = "{{ range(-64, 256) | list }}"
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
            answers: Which answers let the action pass: `good` ones, or `any`, since a tolerance looks at them.
        """
        kind = provider.get("type")
        if kind == "http":
            return self._http(provider, about, answers), HTTP
        if kind == "process":
            return self._process(provider, answers), PROCESS
        if kind == "python":
            return self._python(provider), PYTHON
        self._notes.say(about, f"there is no action for a provider of type {kind}")
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
        return {"timeout": in_seconds(seconds)} if isinstance(seconds, int | float) and seconds > 0 else {}


def in_seconds(seconds: float) -> str:
    """A number of seconds as a duration."""
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def _mapping(expressions: dict[str, str]) -> str:
    return "{" + ", ".join(f"'{name}': {value}" for name, value in expressions.items()) + "}"
