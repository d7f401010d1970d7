"""The forms that change something: sign in and out, start, answer, abort, put back, go on."""

from __future__ import annotations

import asyncio
import hmac
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from k2run.actions.person import Answer
from k2run.errors import K2runError, UsageError
from k2run.faces.abort import abort as end
from k2run.faces.inbox import Inbox
from k2run.faces.web.pages import runbook_page
from k2run.faces.web.parts import ON_CALL, PRESENTER, RUN, has_inbox, is_asked, needs_approver
from k2run.faces.web.site import COOKIE, Denied, site_of
from k2run.faces.web.starts import carry_on, start
from k2run.faces.web.tokens import Role, Somebody
from k2run.language.heading import SECRET_SOURCES

if TYPE_CHECKING:
    from starlette.requests import Request

    from k2run.evidence.view import StepView
    from k2run.language.model import Runbook

FIELDS = 200
ANSWER = 2000
"""Characters of an answer."""
WEEK_S = 7 * 24 * 3600
REFUSAL_S = 2.0
"""Seconds in which a command that goes on with a run says that it will not."""
_TAGS = re.compile(r"[\w.-]+(\s*,\s*[\w.-]+)*")
_PAGES = {RUN: "", PRESENTER: "/presenter", ON_CALL: "/oncall"}


async def enter_page(request: Request) -> Response:
    """The form to sign in."""
    return _enter(request, _local(request.query_params.get("next", "/")))


async def enter(request: Request) -> Response:
    """Sign in with a token."""
    site = site_of(request)
    given = await _fields(request)
    cookie = site.tokens.open_session(given.get("token", ""))
    if not cookie:
        await asyncio.sleep(0.3)  # guessing is slow, and counted by the guard
        return _enter(request, _local(given.get("next", "/")), wrong=True)
    response = RedirectResponse(_local(given.get("next", "/")), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie, max_age=WEEK_S, httponly=True, samesite="strict", secure=secure)
    return response


async def leave(request: Request) -> Response:
    """Sign out."""
    await allowed(request, Role.VIEWER)
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


async def start_run(request: Request) -> Response:
    """Start a runbook with the inputs of its form."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    entry = await run_in_threadpool(site.shelf.runbook, request.path_params["key"])
    if entry.runbook is None:
        raise Denied(400, entry.problem)
    stack = given.get("stack", entry.runbook.stack)
    try:
        if stack not in site.shelf.stack_names():
            raise UsageError("there is no such stack")
        words = [
            "run",
            str(entry.path),
            f"--stack={stack}",
            "--inbox",
            f"--by={who.name}",
            *_asked(entry.runbook, given),
        ]
        site.audit(request, who, "start", entry.runbook.name)
        run = await start(site.store, words)
    except K2runError as error:
        problem = error.message + (f": {error.hint}" if error.hint else "")
        return await run_in_threadpool(runbook_page, site, who, entry, given=given, problem=problem)
    return RedirectResponse(f"/runs/{run}", 303)


async def answer(request: Request) -> Response:
    """Answer a question of a run."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    story = site.feed(request.path_params["run"]).story
    step = _question(story.view.running() if story.state == "running" else [], given.get("question", ""))
    if needs_approver(step) and who.role < Role.APPROVER:
        raise Denied(403, "Only an approver can confirm this")
    if not has_inbox(story.view):
        raise Denied(409, "This run asks on the terminal where it was started")
    text = given.get("answer", "").strip()
    choices = step.asked.choices if step.asked is not None else []
    if not text or len(text) > ANSWER or not _plain(text) or (choices and text not in choices):
        raise Denied(400, f"Please answer {' or '.join(choices) if choices else 'in a line of text'}")
    site.audit(request, who, f"answer {text!r}", f"{story.folder.name} {step.path}")
    question = step.asked.seq if step.asked is not None else 0
    await run_in_threadpool(Inbox(story.folder).put, question, Answer(text=text, by=who.name))
    return _back(request, given)


async def abort(request: Request) -> Response:
    """Ask a run to end; it puts everything back first."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    folder = site.runs.folder(request.path_params["run"])
    site.audit(request, who, "abort", folder.name)
    await run_in_threadpool(end, site.store, folder, who.name)
    return _back(request, given)


async def resume(request: Request) -> Response:
    """Go on with a run that died or was interrupted."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    folder = site.runs.folder(request.path_params["run"])
    site.audit(request, who, "resume", folder.name)
    await carry_on(site.store, ["resume", folder.name, "--json", "--inbox", f"--by={who.name}"], REFUSAL_S)
    return _back(request, given)


async def undo(request: Request) -> Response:
    """Put back what a dead run left broken."""
    site = site_of(request)
    who, given = await allowed(request, Role.OPERATOR)
    view = site.feed(request.path_params["run"]).story.view
    if view.started is None:
        raise Denied(400, "There is nothing to put back")
    site.audit(request, who, "undo", request.path_params["run"])
    await carry_on(site.store, ["undo", f"--stack={view.started.stack}"], REFUSAL_S)
    return _back(request, given)


# --- what all of them need --------------------------------------------------------------------------------------------


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form.

    Raises:
        Denied: It is no form.
    """
    try:
        text = (await request.body()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS, errors="strict"))
    except ValueError as error:
        raise Denied(400, "That is no form") from error


async def allowed(request: Request, role: Role) -> tuple[Somebody, dict[str, str]]:
    """Who sends a form, and its fields.

    Raises:
        Denied: They may not, or the form is not one of ours.
    """
    who = site_of(request).who(request)
    if who.role < Role.VIEWER:
        raise Denied(401, "This needs a token")
    if who.role < role:
        raise Denied(403, f"This needs the role {role.word}; {who.name} is {who.role.word}")
    given = await _fields(request)
    if who.csrf and not hmac.compare_digest(who.csrf.encode(), given.pop("csrf", "").encode()):
        raise Denied(403, "The form is not from this session", "go back, reload the page and try again")
    return who, given


def _asked(runbook: Runbook, given: dict[str, str]) -> list[str]:
    """The options of `k2run run` for what stands in the form; a field left empty means the default.

    Raises:
        UsageError: A value cannot be handed on.
    """
    words: list[str] = []
    for entry in runbook.inputs:
        value = given.get(f"input.{entry.name}", "").strip()
        if not _plain(value):
            raise UsageError(f"{entry.name}: one line of text, please")
        if value and entry.type == "secret" and not value.startswith(SECRET_SOURCES):
            raise UsageError(f"{entry.name}: say where the secret is", hint=f"{', '.join(SECRET_SOURCES)} and a name")
        if value:
            words += ["-e", f"{entry.name}={value}"]
    tags = given.get("tags", "").strip()
    if tags and not _TAGS.fullmatch(tags):
        raise UsageError("tags are names with commas between them")
    return [*words, *([f"--tags={tags}"] if tags else []), *(["--keep"] if given.get("keep") else [])]


def _question(running: list[StepView], number: str) -> StepView:
    """The step that waits for an answer to this question.

    Raises:
        Denied: None does.
    """
    for step in running:
        if is_asked(step) and step.asked is not None and str(step.asked.seq) == number:
            return step
    raise Denied(409, "That question is not open any more", "somebody else has answered, or its time is over")


def _plain(text: str) -> bool:
    """Whether a text is one line that can stand on a command line."""
    return all(char.isprintable() for char in text)


def _local(path: str) -> str:
    """An address on this server, whatever was asked for."""
    return path if re.fullmatch(r"/(?:[\w.-]+(?:/[\w.-]+)*)?", path) else "/"


def _back(request: Request, given: dict[str, str]) -> Response:
    """To the page that the form was on."""
    layout = _PAGES.get(given.get("layout", RUN), "")
    return RedirectResponse(f"/runs/{request.path_params['run']}{layout}", 303)


def _enter(request: Request, after: str, *, wrong: bool = False) -> Response:
    site = site_of(request)
    html = site.page("enter.html", site.who(request), next=after, wrong=wrong, file=site.tokens.path)
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
