"""What a command or the page shows about a stack has no secret in it, whatever services answer, log or are called."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from spelled_secrets import found
from wheel_programs import free_ports

from k2run.engine.events import StepStarted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Bench

SERVER = """\
import http.server, json, os, pathlib, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        bad = pathlib.Path(__file__).with_name("bad").exists()
        body = json.dumps({"status": os.environ["PW"] if bad else "good"}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        print("ERROR: cannot log in with", os.environ["PW"], repr(os.environ["PW"]), flush=True)

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
STACK = """\
stack: 1
name: telltale
services:
  api:
    run: process
    command: [{python}, server.py, "{port}"]
    env: {{PW: "env:PW"}}
    ports: [{port}]
    url: "http://k2:{{{{ secret('env:PW') }}}}@127.0.0.1:{port}"
    ready: {{http: "http://127.0.0.1:{port}/", body: {{status: good}}}}
  far: {{ready: {{http: "http://k2:{{{{ secret('env:PW') }}}}@127.0.0.1:9/"}}}}
connections:
  postgres: {{host: 127.0.0.1, port: 9, user: k2, database: k2, password: "env:PW"}}
"""
DEAD = """\
stack: 1
name: dead
services:
  dead: {{run: process, command: [{python}, -c, "import os; print('no', os.environ['PW']); raise SystemExit(3)"],
    env: {{PW: "env:PW"}}}}
"""
RECOVERY = """\
runbook: 1
kind: recovery
name: api-wrong
title: The API answers wrongly
rto: 1m
symptoms:
  - {name: It says so, http.get: {url: "http://127.0.0.1:PORT/"}, expect: result.json.status != 'good'}
  - {name: Nor the database, postgres.query: {sql: select 1}}
sections:
  - name: Repair
    steps:
      - {name: Look, assert: {that: 1 == 1}}
recovered:
  - {name: Works, http.get: {url: "http://127.0.0.1:PORT/"}, expect: result.json.status == 'good'}
"""
BROKEN = """\
runbook: 1
kind: scenario
name: breaks
title: It is killed while a fault is in force
inputs: {pw: {type: secret, default: "env:PW"}}
sections:
  - name: Break
    steps:
      - {name: Fill, host.fill_disk: {size: 1MiB, name: scratch}}
      - {name: "Wait with {{ pw }}", shell.run: {command: sleep 4}}
"""
SECRETS = (
    "p@ss:hunter2/\"quoted'é\\n",
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in ("correct-horse-battery", "hunt3r", "key of <b>&amp; mine")
    ),
)


def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(params=SECRETS)
def telltale(bench: Bench, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A stack that tells its secret wherever it can."""
    monkeypatch.setenv("PW", request.param)
    monkeypatch.chdir(bench.folder)
    (bench.folder / "server.py").write_text(SERVER)
    port, python = free_port(), json.dumps(sys.executable)
    bench.stack_text = STACK.format(python=python, port=port).replace("server.py", str(bench.folder / "server.py"))
    (bench.folder / "dead.yaml").write_text(DEAD.format(python=python))
    folder = bench.folder / "runbooks" / "recovery"
    folder.mkdir(parents=True)
    (folder / "wrong.yaml").write_text(RECOVERY.replace("PORT", str(port)))
    yield bench
    bench.output("down", f"--stack={bench.stack_file}")


def killed_in_a_run(bench: Bench) -> None:
    process = bench.command("run", str(bench.write(BROKEN)), f"--stack={bench.stack_file}", "--plain", "--keep")
    end = time.monotonic() + 30
    while not any(isinstance(event, StepStarted) and "Wait" in event.name for event in _journal(bench)):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()


def _journal(bench: Bench) -> list[object]:
    return list(bench.journal()) if any((bench.store.home / "runs").glob("*/journal.jsonl")) else []


@pytest.mark.slow  # a dozen commands; what they print goes through one place, which tests/cli/test_prints.py holds
def test_no_command_shows_a_secret(telltale: Bench) -> None:
    secret, on = os.environ["PW"], f"--stack={telltale.stack_file}"
    shown: dict[str, str] = {}

    def say(*words: str) -> None:
        shown[" ".join(words)] = telltale.output(*words)[1]

    say("up", f"--stack={telltale.folder / 'dead.yaml'}")
    say("up", on)
    (telltale.folder / "bad").touch()
    killed_in_a_run(telltale)
    for words in (
        ["status", on],
        ["status", on, "--json"],
        ["logs", "api", on],
        ["logs", "nothing", on],
        ["diagnose", on],
        ["diagnose", on, "--json"],
        ["recover", "--auto", on],
        ["undo"],
        ["undo"],
        ["resume", "last", "--json"],
        ["abort"],
        ["history"],
        ["list"],
        ["down", on],
        ["status", on],
    ):
        say(*words)
    assert {words: found(secret, out) for words, out in shown.items() if found(secret, out)} == {}
    assert {words: out for words, out in shown.items() if "Traceback" in out} == {}
    whole = {words.split(f" {on}")[0]: out for words, out in shown.items()}
    assert "•••" in whole["logs api"]
    assert "•••" in whole["diagnose"]
    assert "status is '•••' instead of 'good'" in shown[f"status {on} --json"]
    json.loads(shown[f"status {on} --json"].splitlines()[-1])


def test_no_page_shows_a_secret(telltale: Bench) -> None:
    secret, on = os.environ["PW"], f"--stack={telltale.stack_file}"
    (telltale.folder / "runbooks" / "stacks").mkdir()
    (telltale.folder / "runbooks" / "stacks" / "telltale.yaml").write_text(telltale.stack_file.read_text())
    telltale.output("up", on)
    (telltale.folder / "bad").touch()
    killed_in_a_run(telltale)
    run = telltale.store.find_run("last").name
    process = telltale.command("serve", "--port", "0")
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        address, _, token = said[1].split()[-1].partition("/enter#")
        shown = {}
        with httpx.Client(base_url=address, headers={"authorization": f"Bearer {token}"}, timeout=30) as client:
            pages = ["/", "/overview", "/diagnosis/telltale", "/diagnosis/nothing", "/runs", "/trends"]
            pages += [
                f"/runs/{run}{more}" for more in ("", "/presenter", "/oncall", "/report", "/report.md", "/journal")
            ]
            for page in [*pages, f"/runs/{secret}", "/runbooks/nothing"]:
                answer = client.get(page)
                assert answer.status_code < 500, page
                shown[page] = answer.text
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert {page: found(secret, html) for page, html in shown.items() if found(secret, html)} == {}
    assert "•••" in shown["/"]
    assert "•••" in shown["/diagnosis/telltale"]
