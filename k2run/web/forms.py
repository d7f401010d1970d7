"""The forms: sign in and out, start, answer, abort, undo, resume; runs are started as processes of their own."""

from __future__ import annotations

import asyncio
import hmac
import re
import sys
import threading
import time
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from k2run.actions.action import Answer
from k2run.app.answers import Inbox
from k2run.app.launch import DEFAULT_STACK
from k2run.app.run_processes import abort as end
from k2run.app.run_processes import spawn
from k2run.engine.events import RunStarted, decode_event
from k2run.errors import K2runError, OperatorError, UsageError
from k2run.web.fragments import ON_CALL, PRESENTER, RUN, has_inbox, is_asked, needs_approver
from k2run.web.guard import SESSION_S, Role, User
from k2run.web.pages import runbook_page
from k2run.web.site import COOKIE, Denied, site_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from starlette.requests import Request

    from k2run.engine.store import Store
    from k2run.evidence.step_view import StepView
    from k2run.language.model import Runbook
    from k2run.web.feed import FollowedRun

FIELDS = 200
ANSWER = 2000
"""Characters of an answer."""
REFUSAL_S = 2.0
"""Seconds in which `resume` or `undo` may refuse."""
_TAGS = re.compile(r"[\w.-]+(\s*,\s*[\w.-]+)*")
_PAGES = {RUN: "", PRESENTER: "/presenter", ON_CALL: "/oncall"}


async def enter_page(request: Request) -> Response:
    """The form to sign in."""
    return _enter(request, _local(request.query_params.get("next", "/")))


async def enter(request: Request) -> Response:
    """Sign in with a token."""
    site = site_of(request)
    given = await _fields(request)
    cookie = site.tokens.open_session(given.get("token", ""), time.time())
    if not cookie:
        await asyncio.sleep(0.3)  # guessing is slow, and counted by the guard
        return _enter(request, _local(given.get("next", "/")), wrong=True)
    response = RedirectResponse(_local(given.get("next", "/")), 303)
    response.set_cookie(
        COOKIE, cookie, max_age=int(SESSION_S), httponly=True, samesite="strict", secure=_is_secure(request)
    )
    return response


async def leave(request: Request) -> Response:
    """Sign out: the session ends here, not only in the browser."""
    who, _ = await allowed(request, Role.VIEWER)
    if who.csrf:
        await run_in_threadpool(site_of(request).tokens.end_session, request.cookies[COOKIE])
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_is_secure(request))
    return response


async def start_run(request: Request) -> Response:
    """Start a runbook with the inputs of its form."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    entry = await run_in_threadpool(site.catalogue.runbook, request.path_params["key"])
    if entry.runbook is None:
        raise Denied(400, entry.problem)
    stack = given.get("stack", entry.runbook.stack or DEFAULT_STACK)
    try:
        if stack not in site.catalogue.stack_names():
            raise UsageError("stack not found", hint="choose one from the list")
        words = ["run", str(entry.path), f"--stack={stack}", "--inbox", f"--by={who.name}", *_options(given)]
        values = _values(entry.runbook, given)
        site.audit(request, who, "start", entry.runbook.name)
        run = await start(site.store, words, values)
    except K2runError as error:
        problem = error.message + (f": {error.hint}" if error.hint else "")
        return await run_in_threadpool(runbook_page, site, who, entry, given=given, problem=problem)
    return RedirectResponse(f"/runs/{run}", 303)


async def answer(request: Request) -> Response:
    """Answer a question of a run."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    followed, running = await site.feed(request.path_params["run"]).read(_running)
    step = _question(running, given.get("question", ""))
    if needs_approver(step) and who.role < Role.APPROVER:
        raise Denied(403, "Only an approver can confirm this")
    if not has_inbox(followed.view):
        raise Denied(409, "This run takes answers only on its terminal")
    text = given.get("answer", "").strip()
    choices = step.asked.choices if step.asked is not None else []
    if not text or len(text) > ANSWER or not _plain(text) or (choices and text not in choices):
        raise Denied(400, f"Answer {' or '.join(choices) if choices else 'with one line of text'}")
    site.audit(request, who, f"answer {text!r}", f"{followed.folder.name} {step.path}")
    question = step.asked.seq if step.asked is not None else 0
    await run_in_threadpool(Inbox(followed.folder).put, question, Answer(text=text, by=who.name))
    return _back(request, given)


async def abort(request: Request) -> Response:
    """Abort a run; it undoes its faults first."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    folder = site.runs.folder(request.path_params["run"])
    site.audit(request, who, "abort", folder.name)
    await run_in_threadpool(end, site.store, folder, who.name)
    return _back(request, given)


async def resume(request: Request) -> Response:
    """Resume a run that died or was interrupted."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    folder = site.runs.folder(request.path_params["run"])
    site.audit(request, who, "resume", folder.name)
    await carry_on(site.store, ["resume", folder.name, "--json", "--inbox", f"--by={who.name}"], REFUSAL_S)
    return _back(request, given)


async def undo(request: Request) -> Response:
    """Undo the faults that a dead run left."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    begun = await site.feed(request.path_params["run"]).read(lambda followed: followed.view.started)
    if begun is None:
        raise Denied(400, "The run has nothing to undo")
    site.audit(request, who, "undo", request.path_params["run"])
    await carry_on(site.store, ["undo", f"--stack={begun.stack}"], REFUSAL_S)
    return _back(request, given)


# --- what all of them need --------------------------------------------------------------------------------------------


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form.

    Raises:
        Denied: It is not a form.
    """
    try:
        text = (await request.body()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS, errors="strict"))
    except ValueError as error:
        raise Denied(400, "The form could not be read", "reload the page and try again") from error


async def allowed(request: Request, role: Role) -> tuple[User, dict[str, str]]:
    """Who sends a form, and its fields.

    Raises:
        Denied: They may not, or the form is not one of ours.
    """
    who = site_of(request).who(request)
    if who.role < Role.VIEWER:
        raise Denied(401, "Sign in first")
    if who.role < role:
        raise Denied(403, f"This needs the role {role.word}; {who.name} has the role {who.role.word}")
    given = await _fields(request)
    if who.csrf and not hmac.compare_digest(who.csrf.encode(), given.pop("csrf", "").encode()):
        raise Denied(403, "The form belongs to another session", "reload the page and try again")
    return who, given


def _values(runbook: Runbook, given: dict[str, str]) -> dict[str, str]:
    """The inputs of the form; an empty field means the default.

    Raises:
        UsageError: A value is more than a line of text.
    """
    values = {entry.name: given.get(f"input.{entry.name}", "").strip() for entry in runbook.inputs}
    for name, value in values.items():
        if not _plain(value):
            raise UsageError(f"{name}: must be one line of text")
    return {name: value for name, value in values.items() if value}


def _options(given: dict[str, str]) -> list[str]:
    """The options of `k2run run` for the other fields of the form.

    Raises:
        UsageError: A tag is no name.
    """
    tags = given.get("tags", "").strip()
    if tags and not _TAGS.fullmatch(tags):
        raise UsageError("tags must be names separated by commas")
    return [*([f"--tags={tags}"] if tags else []), *(["--keep"] if given.get("keep") else [])]


def _running(followed: FollowedRun) -> tuple[FollowedRun, list[StepView]]:
    """A run, and what is being done in it."""
    return followed, followed.view.running() if followed.state == "running" else []


def _question(running: list[StepView], number: str) -> StepView:
    """The step that waits for an answer to this question.

    Raises:
        Denied: None does.
    """
    for step in running:
        if is_asked(step) and step.asked is not None and str(step.asked.seq) == number:
            return step
    raise Denied(409, "This question is no longer open", "it has been answered, or timed out")


def _plain(text: str) -> bool:
    return all(char.isprintable() for char in text)


def _local(path: str) -> str:
    """An address on this server; `/` for any other."""
    return path if re.fullmatch(r"/(?:[\w.-]+(?:/[\w.-]+)*)?", path) else "/"


def _is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS, to us or to a proxy: its forms say where the page came from."""
    origin, forwarded = request.headers.get("origin", ""), request.headers.get("x-forwarded-proto", "")
    return request.url.scheme == "https" or origin.startswith("https://") or forwarded == "https"


def _back(request: Request, given: dict[str, str]) -> Response:
    layout = _PAGES.get(given.get("layout", RUN), "")
    return RedirectResponse(f"/runs/{request.path_params['run']}{layout}", 303)


def _enter(request: Request, after: str, *, wrong: bool = False) -> Response:
    site = site_of(request)
    html = site.page(
        "enter.html", site.who(request), next=after, wrong=wrong, file=site.tokens.path.name, private=site.private
    )
    return HTMLResponse(html, 403 if wrong else 200)


ROUTES = [
    Route("/enter", enter_page),
    Route("/enter", enter, methods=["POST"]),
    Route("/leave", leave, methods=["POST"]),
    Route("/runbooks/{key}/start", start_run, methods=["POST"]),
    Route("/runs/{run}/answer", answer, methods=["POST"]),
    Route("/runs/{run}/abort", abort, methods=["POST"]),
    Route("/runs/{run}/resume", resume, methods=["POST"]),
    Route("/runs/{run}/undo", undo, methods=["POST"]),
]


PATIENCE_S = 20.0
"""Seconds in which a process must start its run, or say why it cannot."""
LOOK_S = 0.05


async def start(store: Store, words: Sequence[str], values: Mapping[str, str]) -> str:
    """Start `k2run run …` and wait until the run has begun.

    Args:
        store: The k2run home.
        words: The command line from `run` on, without how it is to report.
        values: Its inputs.

    Returns:
        The run's id.

    Raises:
        OperatorError: It did not begin; the message is the command's own.
    """
    process, log = _begin(store, [*words, "--json"], values)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        run = _begun(log)
        if run:
            return run
        if process.poll() is not None:
            run = _begun(log)
            if run:
                return run
            raise OperatorError(_said(log) or f"the command exited with {process.returncode}")
        await asyncio.sleep(LOOK_S)
    raise OperatorError(f"the run did not start within {PATIENCE_S:g}s", hint=f"see {log}")


async def carry_on(store: Store, words: Sequence[str], ready: float) -> None:
    """Start `k2run resume …` or `k2run undo …`, and give it a moment to refuse.

    Args:
        store: The k2run home.
        words: The command line.
        ready: Seconds after which it counts as on its way.

    Raises:
        OperatorError: It refused; the message is the command's own.
    """
    process, log = _begin(store, words)
    end = time.monotonic() + ready
    while time.monotonic() < end:
        if process.poll() is not None:
            if process.returncode:
                raise OperatorError(_said(log) or f"the command exited with {process.returncode}")
            return
        await asyncio.sleep(LOOK_S)


def _begin(
    store: Store, words: Sequence[str], values: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a command in its own session, with its output in a file."""
    log = store.home / "serve" / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{token_hex(4)}.log"
    process = spawn([sys.executable, "-m", "k2run", *words], store.home, log, values)
    threading.Thread(target=process.wait, name=f"reaper of {process.pid}", daemon=True).start()
    return process, log


def _begun(log: Path) -> str:
    """The id of the run whose first event is in the log."""
    for line in log.read_bytes().splitlines():
        try:
            event = decode_event(line)
        except msgspec.DecodeError:
            continue
        if isinstance(event, RunStarted):
            return event.run
    return ""


def _said(log: Path) -> str:
    """The error message of a command, without its events."""
    lines = [
        line
        for line in log.read_text(errors="replace", encoding="utf-8").splitlines()
        if line and not line.startswith("{")
    ]
    return " ".join(line.strip() for line in lines[-6:]).removeprefix("error: ")
