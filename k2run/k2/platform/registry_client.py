"""What the programs ask of the schema registry: an id for what they write, and a schema for what they read.

Ids are asked for once: a running program needs no registry for the schemas that it knows. While no node answers it asks
again, for as long as it takes.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from k2run.k2.platform.program import log

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_ASK_S = 2.0
_AGAIN_S = 0.25
_TELL_S = 5.0
_NO_SUBJECT, _NO_SCHEMA = 40401, 40403


class RegistryDownError(Exception):
    """No node of the registry answers from its state."""


class RefusedError(Exception):
    """The registry says no.

    Attributes:
        code: Its error code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class StoppedError(Exception):
    """The program was told to end while it waited."""


class RegistryClient:
    """Asks the first node that answers; the one that did is the first to be asked next time."""

    def __init__(self, urls: str, stopping: threading.Event, waits: Callable[[bool], None] = lambda _: None) -> None:
        self._urls = [url.rstrip("/") for url in urls.split(",") if url]
        self._stopping = stopping
        self._waits = waits

    def register(self, subject: str, schema: Any) -> int:
        """The id of a schema, which is registered under the subject if it is not yet.

        Raises:
            RefusedError: It may not follow those that are there.
            StoppedError: The program was told to end while it waited.
        """
        body = {"schema": json.dumps(schema, separators=(",", ":"))}
        return int(self._patiently("POST", f"/subjects/{quote(subject, safe='')}/versions", body)["id"])

    def schema(self, number: int, subject: str) -> Any | None:
        """The schema with an id; None when the registry has none, though it has the subject.

        A registry that does not have the subject either has lost its state. What was written with its ids is no rubbish
        then, so its answer is waited for as if it were down.

        Raises:
            StoppedError: The program was told to end while it waited.
        """
        try:
            return json.loads(self._patiently("GET", f"/schemas/ids/{number}", lost=subject)["schema"])
        except RefusedError as refused:
            if refused.code != _NO_SCHEMA:
                raise
            return None

    def newest(self, subject: str) -> tuple[int, Any] | None:
        """The newest schema of a subject with its id; None when no node has it, or none answers: it does not wait."""
        try:
            answer = self._one("GET", f"/subjects/{quote(subject, safe='')}/versions/latest")
        except (RegistryDownError, RefusedError):
            return None
        return int(answer["id"]), json.loads(answer["schema"])

    def _patiently(self, verb: str, path: str, body: Any = None, lost: str = "") -> Any:
        told = 0.0
        while True:
            try:
                answer = self._asked(verb, path, body, lost)
            except RegistryDownError as problem:
                self._waits(True)
                if time.monotonic() - told > _TELL_S:
                    told = time.monotonic()
                    log("schema_registry_unreachable", "warning", waiting_for=path, error=problem)
                if self._stopping.wait(_AGAIN_S):
                    raise StoppedError from problem
            else:
                if told:
                    log("schema_registry_answers_again", url=self._urls[0])
                self._waits(False)
                return answer

    def _asked(self, verb: str, path: str, body: Any, lost: str) -> Any:
        try:
            return self._one(verb, path, body)
        except RefusedError as refused:
            if lost and refused.code == _NO_SCHEMA:
                try:
                    self._one("GET", f"/subjects/{quote(lost, safe='')}/versions")
                except RefusedError as unknown:
                    if unknown.code == _NO_SUBJECT:
                        raise RegistryDownError(f"the registry has lost its subjects: {unknown}") from unknown
                    raise
            raise

    def _one(self, verb: str, path: str, body: Any = None) -> Any:
        problems = []
        for url in list(self._urls):
            try:
                answer = _ask(verb, url + path, body)
            except (OSError, ValueError) as problem:
                problems.append(f"{url}: {getattr(problem, 'reason', None) or problem}")
            except RefusedError as refused:
                if not str(refused.code).startswith("5"):
                    raise
                problems.append(f"{url}: {refused}")
            else:
                self._urls.remove(url)
                self._urls.insert(0, url)
                return answer
        raise RegistryDownError("; ".join(problems))


def _ask(verb: str, url: str, body: Any) -> Any:
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, sent, {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE}, method=verb)  # noqa: S310 - as the operator says
    try:
        with urllib.request.urlopen(request, timeout=_ASK_S) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as problem:
        try:
            told = json.load(problem)
            code, message = int(told["error_code"]), str(told["message"])
        except (ValueError, KeyError, TypeError):
            code, message = problem.code, problem.reason
        raise RefusedError(code, message) from problem
