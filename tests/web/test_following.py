"""Starting, following, answering and ending runs over HTTP, with the server dying under them."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

SCENARIO = {"stack": "sleepers", "input.level": "2"}


def messages(client: httpx.Client, run: str, layout: str = "run") -> Iterator[dict[str, Any]]:
    """The server-sent events of a run's page."""
    with client.stream("GET", f"/runs/{run}/events", params={"layout": layout}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def name_of(event: object) -> str:
    return type(event).__name__


def asked(served: Any, run: str) -> Any:
    return served.wait_for(run, lambda event: name_of(event) == "Asked")


def answer(client: httpx.Client, run: str, question: int, text: str = "yes") -> httpx.Response:
    return client.post(f"/runs/{run}/answer", data={"question": str(question), "answer": text})


def test_a_run_is_followed_to_its_verdict_by_several_at_once(served):
    run = served.start_run("short", stack="none")
    with served.client() as one, served.anonymous() as two:
        last: dict[str, str] = {}
        first = next(messages(two, run))
        for message in messages(one, run):
            last |= message["parts"]
            if message["state"] == "ended":
                break
    assert "sections" in first["parts"]
    assert "PASSED" in last["p-state"]
    assert served.ended(run).outcome.value == "passed"


def test_a_run_is_started_answered_broken_aborted_and_put_back(served):
    with served.client() as client:
        run = served.start_run("scenario", **SCENARIO)
        question = asked(served, run)
        page = client.get(f"/runs/{run}").text
        assert "Notifications are off &amp; the &lt;b&gt;room&lt;/b&gt; is ready" in page
        assert answer(client, run, question.seq, "maybe").status_code == 400
        assert answer(client, run, question.seq).status_code == 303
        given = served.wait_for(run, lambda event: name_of(event) == "Answered")
        assert (given.answer, given.by) == ("yes", served.events(run)[0].by)
        assert answer(client, run, question.seq).status_code == 409, "the question is no longer open"
        served.wait_for(run, lambda event: name_of(event) == "StepStarted" and event.name == "Wait for an operator")
        assert "<path" in client.get(f"/runs/{run}").text, "the level's chart"
        assert served.sleeper().status() == psutil.STATUS_STOPPED
        assert client.post(f"/runs/{run}/abort", data={"layout": "oncall"}).headers["location"].endswith("/oncall")
        over = served.ended(run)
        notes = [event.message for event in served.events(run) if name_of(event) == "Noted"]
        page = client.get(f"/runs/{run}").text
    assert over.outcome.value == "interrupted"
    assert not over.pending_undos
    assert any(f"from {served.events(run)[0].by}" in note for note in notes), "who aborted stands in the journal"
    assert "✓ undone" in page
    assert "Resume the run" in page


def test_a_run_outlives_the_server_and_the_next_server_tells_the_truth(lay_out, tmp_path):
    served = lay_out(tmp_path)
    served.start()
    try:
        run = served.start_run("scenario", **SCENARIO)
        question = asked(served, run)
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait(5)
        assert psutil.pid_exists(served.events(run)[0].pid), "the run goes on without the server"
        token = served.token
        served.start()
        assert served.token == token
        with served.client() as client:
            assert "Notifications are off" in client.get(f"/runs/{run}").text
            assert answer(client, run, question.seq).status_code == 303
            served.wait_for(run, lambda event: name_of(event) == "StepStarted" and event.name == "Wait for an operator")
            psutil.Process(served.events(run)[0].pid).kill()
            page = until(client, f"/runs/{run}", "DIED")
            assert "resume one" in page, "what is still broken is named"
            assert client.post(f"/runs/{run}/undo").status_code == 303
            served.wait_for(run, lambda event: name_of(event) == "UndoFinished")
            assert client.post(f"/runs/{run}/resume").status_code == 303
            served.wait_for(run, lambda event: name_of(event) == "RunResumed" and event.inbox)
            until(client, f"/runs/{run}", "Abort…")
            client.post(f"/runs/{run}/abort")
            assert served.ended(run).outcome.value == "interrupted"
    finally:
        served.stop()


def until(client: httpx.Client, path: str, text: str, seconds: float = 15) -> str:
    """A page, as soon as it has this on it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        page = client.get(path).text
        if text in page:
            return page
        time.sleep(0.2)
    raise AssertionError(f"{text!r} did not appear on {path}")


def test_what_cannot_be_started_says_why_on_the_form_with_what_was_typed(served):
    with served.client() as client:
        response = client.post("/runbooks/scenario/start", data={**SCENARIO, "input.level": "many"})
        assert response.status_code == 400
        assert "not of type integer" in response.text
        assert 'value="many"' in response.text
        assert "stack not found" in client.post("/runbooks/scenario/start", data={"stack": "../x"}).text


def test_a_secret_that_is_typed_in_is_a_value_that_no_record_and_no_command_line_shows(served):
    run = served.start_run("scenario", **SCENARIO, **{"input.key": "hunter2-hunter2"})
    asked(served, run)
    words = [word for process in psutil.process_iter() if served.name for word in _words(process)]
    assert any(str(served.folder) in word or word == "--given" for word in words)
    assert not [word for word in words if "hunter2" in word]
    with served.client() as client:
        client.post(f"/runs/{run}/abort")
    served.ended(run)
    kept = [path for path in served.home.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert kept == []


@pytest.mark.parametrize("place", ["cmd:touch {proof}; echo hunter2", "env:HOME", "file:/etc/passwd", "keyring:a/b"])
def test_a_secret_input_of_the_page_names_no_place_to_read(served, tmp_path, place):
    proof = tmp_path / "proof"
    before = served.home.joinpath("runs").exists() and sorted((served.home / "runs").iterdir())
    with served.client() as client:
        form = {**SCENARIO, "input.key": place.format(proof=proof)}
        response = client.post("/runbooks/scenario/start", data=form)
    assert response.status_code == 400
    assert "a place is read only from the default" in response.text
    assert not proof.exists()
    assert (served.home.joinpath("runs").exists() and sorted((served.home / "runs").iterdir())) == before


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_page_of_every_kind_answers(served):
    run = served.start_run("short", stack="none")
    served.ended(run)
    with served.anonymous() as client:
        for path in (
            "/",
            "/overview",
            "/runs",
            "/runs?page=99999",
            "/runs?page=x",
            "/runbooks/short",
            "/healthz",
            "/trends",
        ):
            assert client.get(path).status_code == 200, path
        for view in ("", "/presenter", "/oncall", "/report", "/report.md", "/journal"):
            assert client.get(f"/runs/{run}{view}").status_code == 200, view
        policy = client.get(f"/runs/{run}/report").headers["content-security-policy"]
    assert "style-src 'sha256-" in policy
    assert "script-src 'none'" in policy
