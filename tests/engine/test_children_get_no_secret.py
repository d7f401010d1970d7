"""What k2run starts gets a secret only where the author passed it: neither argv nor environment of a child has it."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Bench

SECRET = "correct-horse-battery"
STACK = """\
stack: 1
name: quiet
vars: {token: "file:SECRET_FILE"}
connections: {postgres: {host: 127.0.0.1, port: 1, database: a, user: b, password: "{{ token }}"}}
services:
  one: {run: process, command: [sleep, "600"], headers: {Authorization: "{{ token }}"}}
"""
RUNBOOK = """\
runbook: 1
kind: scenario
name: quiet
title: Children are started while secrets are known
inputs: {pw: {type: secret, default: "file:SECRET_FILE"}}
sections:
  - name: Break
    steps:
      - {name: Knows it, assert: {that: pw | length > 3}}
      - {name: Burn, host.hog_cpu: {workers: 1}}
      - {name: Asks with it, postgres.query: {sql: select 1}, timeout: 1s, ignore_failure: true}
      - {name: Wait, shell.run: {command: [sleep, "2.5"]}}
"""
SETTINGS = "notifications: [{webhook: 'http://127.0.0.1:9/', secret: 'file:SECRET_FILE'}]\n"


@pytest.fixture
def secret_file(bench: Bench) -> Path:
    file = bench.folder / "secret"
    file.write_text(SECRET)
    bench.stack_text = STACK.replace("SECRET_FILE", str(file))
    (bench.folder / "k2run.yaml").write_text(SETTINGS.replace("SECRET_FILE", str(file)))
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc shows the environment of another process")
def test_no_child_has_a_secret_in_its_arguments_or_environment(bench: Bench, secret_file: Path) -> None:
    path = bench.write(RUNBOOK.replace("SECRET_FILE", str(secret_file)))
    process = bench.command("run", str(path), f"--stack={bench.stack_file}", "--plain")
    seen: dict[str, str] = {}
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                seen[" ".join(child.cmdline())] = repr(child.environ())
        time.sleep(0.05)
    out = process.communicate()[0]
    for left in psutil.process_iter(["cmdline"]):  # its messenger retries for a quarter of an hour
        if str(bench.store.home) in (left.info["cmdline"] or []):
            left.kill()
    for what in ("sleep 600", "sleep 2.5", "stress_process", "messenger"):
        assert any(what in words for words in seen), (what, list(seen), out)
    assert not [words for words, environment in seen.items() if SECRET in words or SECRET in environment]
