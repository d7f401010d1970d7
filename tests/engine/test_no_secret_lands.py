"""Any secret, through every adapter that can fail, is found in no artefact of the run, and breaks no run."""

from __future__ import annotations

import json
import random
import string
from typing import TYPE_CHECKING

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from spelled_secrets import found

from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg.catalog import Iceberg, open_table
from k2run.engine.events import RunFinished, StepFinished
from k2run.engine.journal import read_journal
from k2run.evidence.history import History
from k2run.evidence.reports import publish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Bench

ALPHABET = string.ascii_letters + string.digits + "\"'\\\t\n :/@%&<>#?$!{}[]=+-_.,;|~äßé漢😀"
STACK = """\
stack: 1
name: closed
services:
  api: {url: "http://127.0.0.1:9", headers: {X-Key: "env:PW"}}
  user: {url: "http://k2:{{ secret('env:PW') }}@127.0.0.1:9"}
connections:
  kafka:
    bootstrap: 127.0.0.1:9
    config: {sasl.mechanism: PLAIN, security.protocol: SASL_PLAINTEXT, sasl.username: k2, sasl.password: "env:PW"}
  iceberg: {type: rest, uri: "http://127.0.0.1:9", properties: {token: "env:PW", credential: "env:PW"}}
  grafana: {url: "http://127.0.0.1:9", user: k2, password: "env:PW"}
  network: {url: "http://k2:{{ secret('env:PW') }}@127.0.0.1:9"}
  email: {host: 127.0.0.1, port: 9, sender: k2@example.org, to: [a@example.org], user: k2, password: "env:PW"}
  slack: {url: "http://127.0.0.1:9/{{ secret('env:PW') }}"}
  webhook: {url: "http://127.0.0.1:9/?token={{ secret('env:PW') }}", headers: {Authorization: "env:PW"}}
  postgres: {host: 127.0.0.1, port: 9, database: k2, user: k2, password: "env:PW"}
  prometheus: {url: "http://k2:{{ secret('env:PW') }}@127.0.0.1:9", headers: {X-Key: "env:PW"}}
  s3: {endpoint: "http://127.0.0.1:9", access_key: k2, secret_key: "env:PW", session_token: "env:PW"}
  schema_registry: {url: "http://127.0.0.1:9", user: k2, password: "env:PW"}
  docker: {url: "tcp://127.0.0.1:9"}
  redis: {host: 127.0.0.1, port: 9, user: k2, password: "env:PW"}
  mysql: {host: 127.0.0.1, port: 9, user: k2, password: "env:PW"}
  ssh: {hosts: {far: {address: 127.0.0.1, port: 9}}, user: k2, password: "env:PW"}
"""
PRINTS = "import json, os, sys; s = os.environ['PW']; print(s, repr(s), json.dumps(json.dumps([s]))); sys.exit(s)"
STEPS = f"""\
- ansible.playbook: {{path: "{{{{ pw }}}}.yaml", variables: {{password: "{{{{ pw }}}}"}}}}
- dns.resolve: {{name: "{{{{ pw }}}}.invalid"}}
- duckdb.query: {{sql: "select '{{{{ pw }}}}' from nowhere"}}
- file.exists: {{path: "/nowhere/{{{{ pw }}}}"}}
- file.json: {{path: "{{{{ pw }}}}.json"}}
- grpc.health: {{address: "127.0.0.1:9", name: "{{{{ pw }}}}", metadata: {{x-key: "{{{{ pw }}}}"}}}}
- grafana.annotate: {{text: "{{{{ pw }}}}"}}
- host.fill_disk: {{size: 1MiB, name: "{{{{ pw }}}}/x"}}
- host.ping: {{host: "{{{{ pw }}}}.invalid"}}
- http.get: {{service: api, params: {{token: "{{{{ pw }}}}"}}}}
- http.get: {{service: user}}
- http.get: {{url: "http://k2:{{{{ pw }}}}@127.0.0.1:9/"}}
- http.post: {{url: "http://127.0.0.1:9/{{{{ pw }}}}", json: {{password: "{{{{ pw }}}}"}}}}
- http.get: {{url: "http://127.0.0.1:9/", headers: {{X: "{{{{ pw }}}}"}}}}
- iceberg.rows: {{table: "k2.{{{{ pw }}}}"}}
- k6.run: {{script: "{{{{ pw }}}}.js", env: {{TOKEN: "{{{{ pw }}}}"}}}}
- mysql.query: {{sql: "select '{{{{ pw }}}}'"}}
- metrics.read: {{metric: up, url: "http://{{{{ pw }}}}@127.0.0.1:9/metrics"}}
- network.links: {{}}
- notify.email: {{subject: "{{{{ pw }}}}", text: "{{{{ pw }}}}"}}
- notify.slack: {{text: "{{{{ pw }}}}"}}
- notify.webhook: {{json: {{text: "{{{{ pw }}}}"}}}}
- postgres.query: {{sql: "select '{{{{ pw }}}}'"}}
- prometheus.query: {{query: "up{{job='{{{{ pw }}}}'}}"}}
- redis.get: {{name: "{{{{ pw }}}}"}}
- s3.get: {{bucket: k2, key: "{{{{ pw }}}}"}}
- schema_registry.schema: {{subject: "{{{{ pw }}}}"}}
- service.logs: {{service: "{{{{ pw }}}}"}}
- settings.change: {{service: "{{{{ pw }}}}", env: {{A: "{{{{ pw }}}}"}}}}
- shell.run: {{command: [python3, -c, {json.dumps(PRINTS)}], env: {{PW: "{{{{ pw }}}}"}}}}
- shell.probe: {{command: [python3, -c, {json.dumps(PRINTS)}], env: {{PW: "{{{{ pw }}}}"}}}}
- sql.query: {{sql: "select '{{{{ pw }}}}' from t", files: {{t: "{{{{ pw }}}}.csv"}}}}
- ssh.run: {{host: far, command: "echo {{{{ pw }}}}", stdin: "{{{{ pw }}}}"}}
- systemd.unit: {{name: "{{{{ pw }}}}.service"}}
- tls.certificate: {{address: "127.0.0.1:9", name: "{{{{ pw }}}}"}}
- shell.run: {{command: ["nowhere", "{{{{ pw }}}}"]}}
- shell.run: {{command: "echo {{{{ pw }}}}; exit 3"}}
- storage.hide: {{path: "{{{{ pw }}}}"}}
- tc.queue: {{interface: "{{{{ pw }}}}"}}
- websocket.receive: {{url: "ws://k2:{{{{ pw }}}}@127.0.0.1:9/"}}
- assert: {{that: pw == 'something else'}}
- {{name: "{{{{ pw }}}}", set: {{kept: "{{{{ pw }}}}", also: [{{deep: "a {{{{ pw }}}} b"}}]}}, register: kept}}
"""
SLOW_STEPS = """\
- docker.exec: {container: "{{ pw }}", command: ["echo", "{{ pw }}"]}
- kafka.lag: {topic: "{{ pw }}", group: "{{ pw }}"}
- kafka.topics: {}
- iceberg.tables: {}
- reconcile.topic: {topic: "{{ pw }}", table: "k2.x"}
- topic.poison: {topic: "{{ pw }}", group: "{{ pw }}", value: "{{ pw }}"}
- bench.http: {url: "http://127.0.0.1:9/{{ pw }}", iterations: 2}
"""


def runbook(steps: str) -> str:
    head = 'runbook: 1\nkind: readiness\nname: leaks\ninputs: {pw: {type: secret, default: "env:PW"}}\n'
    lines = [f"      {line}\n        timeout: 4s\n" for line in steps.splitlines()]
    named = [line for line in lines if "- {" not in line and "assert" not in line]
    rest = [line.replace("\n        timeout: 4s", "") for line in lines if line not in named]
    section = "sections:\n  - name: All\n    parallel: true\n    after_failure: continue\n    steps:\n"
    return head + section + "".join(named + rest)


def shapes(count: int, seed: int) -> Iterator[str]:
    """Secrets of 4 to 200 characters, of all kinds; none is an ordinary word."""
    chance = random.Random(seed)
    for number in range(count):
        length = chance.choice([4, 6, 8, 12, 20, 40, 64, 120, 200])
        alphabet = (ALPHABET, string.ascii_letters + string.digits, ALPHABET[62:])[number % 3]
        text = "".join(chance.choice(alphabet) for _ in range(length)).strip()
        yield text if len(text) >= 4 else f"k{text}7#q"


def leaks(bench: Bench, secret: str, steps: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run every step with a secret; what is wrong with the run, and where the secret stands in an artefact."""
    monkeypatch.setenv("PW", secret)
    bench.stack_text = STACK
    path = bench.write(runbook(steps))
    code, out = bench.output("run", str(path), f"--stack={bench.stack_file}", "--plain", "--junit")
    wrong = [f"terminal: {name}" for name in found(secret, out)]
    wrong += ["a traceback"] if "Traceback" in out else []
    wrong += [] if code == 1 else [f"it ended with {code}: {out[-2000:]}"]
    folder = bench.store.find_run("last")
    events = read_journal(folder)
    ended = [event for event in events if isinstance(event, StepFinished)]
    wrong += [] if isinstance(events[-1], RunFinished) else ["the journal has no end"]
    wrong += [] if len(ended) == len(steps.splitlines()) else [f"{len(ended)} steps ended"]
    for place in bench.store.home.rglob("*"):
        if place.is_file():
            text = place.read_bytes().decode(errors="replace")
            wrong += [f"{place.name}: {name}: {_around(secret, text)}" for name in found(secret, text)]
    return wrong


def _around(secret: str, text: str) -> str:
    at = text.find(secret)
    return text[max(0, at - 200) : at + 300] if at >= 0 else ""


@pytest.mark.parametrize("secret", ["p@ss:hunter2/\"quoted'é\\n", *shapes(3, seed=7)])
def test_a_secret_lands_nowhere(bench: Bench, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    assert leaks(bench, secret, STEPS, monkeypatch) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_two_hundred_secrets_land_nowhere(bench: Bench, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    for secret in shapes(10, seed=seed):
        assert leaks(bench, secret, STEPS + SLOW_STEPS, monkeypatch) == [], repr(secret)


MEASURED = """\
runbook: 1
kind: readiness
name: measured
title: Figures of {{ pw }}
owner: me
inputs: {pw: {type: secret, default: "env:PW"}}
sections:
  - name: All
    steps:
      - {name: "Reads {{ pw }}", set: {count: 3, said: "{{ pw }}"}, figures: {level: result.count}}
      - {name: "Fails at {{ pw }}", assert: {that: pw == 'x'}, severity: info}
      - {name: Prints, shell.run: {command: "echo '{{ pw | length }}'"}, figures: {length: 1 + 1}}
      - {loop: ["{{ pw }}"], name: "turn of {{ item }}", set: {seen: 4.5}}
"""


@pytest.mark.parametrize("secret", ["p@ss:hunter2/\"quoted'é\\n", *shapes(3, seed=11)])
def test_published_tables_hold_no_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """Neither their rows, nor any file of the catalog and of the warehouse."""
    monkeypatch.setenv("PW", secret)
    bench.run(MEASURED)
    warehouse = bench.folder / "warehouse"
    warehouse.mkdir()
    place = {"uri": f"sqlite:///{bench.folder}/catalog.db", "warehouse": f"file://{warehouse}"}
    SqlCatalog("team", **place).create_namespace("other")
    iceberg = Iceberg(**place, catalog="team")
    rows = publish(History(bench.store.home), iceberg, "k2run", Deadline(60))
    assert rows["k2run.runs"] == 1
    tables = [open_table(iceberg, Deadline(10), name).scan().to_arrow().to_pylist() for name in rows]
    [measures, _] = tables
    assert {row["metric"] for row in measures} >= {"level", "length", "step: Reads •••", "step: turn of •••"}
    assert found(secret, str(tables)) == set()
    assert found(secret, "\n".join(str(value) for table in tables for row in table for value in row.values())) == set()
    for file in [bench.folder / "catalog.db", *warehouse.rglob("*")]:
        if file.is_file():
            assert found(secret, file.read_bytes().decode(errors="replace")) == set(), file


def test_no_child_is_given_a_secret_on_its_command_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a runbook hands to a command in its environment stands in the arguments of no process."""
    secret = "argv-hunter2-argv"
    monkeypatch.setenv("PW", secret)
    seen = (
        "import pathlib,sys\nfor p in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        " try: sys.stdout.write(p.read_text(errors='replace') + chr(10))\n except OSError: pass\n"
    )
    steps = f"- shell.run: {{command: [python3, -c, {json.dumps(seen)}], env: {{SECRET: '{{{{ pw }}}}'}}}}\n"
    bench.run(runbook(steps))
    step = next(iter(bench.steps().values()))
    assert step.outcome.value == "passed"
    assert "•••" not in step.result["stdout"]
    assert secret not in step.result["stdout"]
