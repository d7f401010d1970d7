"""A stack file for a stack of one's own, and the first runbooks about it."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from k2run.authoring.lint import findings, open_subject
from k2run.authoring.new import write_new, write_new_stack
from k2run.errors import UsageError
from k2run.language.document import read_file
from k2run.language.model import Kind
from k2run.stack.validation import problems_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.actions.catalogue import Catalogue

COMPOSE = """
name: shop
services:
  queue:
    image: apache/kafka:3.9.1
    ports: ["${QUEUE_PORT:-9092}:9092"]
  db:
    image: postgres:16
    container_name: shop-db
    environment: {POSTGRES_PASSWORD: hunter2hunter2}
    ports: [{target: 5432, published: 15432}]
  web:
    build: .
    ports: ["127.0.0.1:8123:8000/tcp", "9999", "5353:53/udp"]
    depends_on: {db: {condition: service_healthy}, queue: {condition: service_started}}
    healthcheck: {test: ["CMD-SHELL", "curl -f http://localhost:8000/health || exit 1"]}
  worker: {image: shop/worker, depends_on: [queue]}
"""
TARGETS = [
    {"labels": {"job": "web", "instance": "web:8000"}, "scrapeUrl": "http://web:8000/metrics"},
    {"labels": {"job": "node", "instance": "10.0.0.5:9100"}, "scrapeUrl": "http://10.0.0.5:9100/metrics"},
    {"labels": {"job": "node", "instance": "10.0.0.6:9100"}, "scrapeUrl": "http://10.0.0.6:9100/metrics"},
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUEUE_PORT", raising=False)


@pytest.fixture
def prometheus() -> Iterator[str]:
    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": "success", "data": {"activeTargets": TARGETS}}).encode()
            self.send_response(200 if self.path.startswith("/api/v1/targets?state=active") else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def written(path: Path) -> dict:
    assert problems_of(read_file(path)) == []
    return yaml.safe_load(path.read_text())


def new_stack(**options) -> Path:
    return write_new_stack("shop", folder=Path("runbooks/stacks"), **options)


def test_what_a_compose_file_says_becomes_a_stack_file_without_its_secrets() -> None:
    Path("docker-compose.yml").write_text(COMPOSE)
    path = new_stack(compose="docker-compose.yml")
    said = written(path)
    assert said["compose"] == "../../docker-compose.yml"
    assert said["services"] == {
        "queue": {"run": "docker", "container": "shop-queue-1", "ports": [9092]},
        "db": {"run": "docker", "container": "shop-db", "ports": [15432]},
        "web": {
            "run": "docker",
            "container": "shop-web-1",
            "ports": [8123],
            "url": "http://localhost:8123",
            "ready": {"http": "http://localhost:8123/health"},
            "needs": ["db", "queue"],
        },
        "worker": {"run": "docker", "container": "shop-worker-1", "needs": ["queue"]},
    }
    assert said["connections"]["kafka"] == {"bootstrap": "localhost:9092"}
    assert said["connections"]["postgres"]["port"] == 15432
    assert "hunter2" not in path.read_text()


def test_a_port_that_the_environment_sets_is_the_one_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_PORT", "19092")
    Path("compose.yml").write_text(COMPOSE)
    assert written(new_stack(compose="compose.yml"))["services"]["queue"]["ports"] == [19092]


def test_what_prometheus_scrapes_becomes_services(prometheus: str) -> None:
    said = written(new_stack(prometheus=prometheus))
    assert said["connections"] == {"prometheus": {"url": prometheus}}
    assert list(said["services"]) == ["web", "node-10.0.0.5-9100", "node-10.0.0.6-9100"]
    assert said["services"]["web"] == {
        "run": "external",
        "url": "http://web:8000",
        "metrics": "http://web:8000/metrics",
        "ready": {"http": "http://web:8000/metrics"},
    }


def test_both_sources_together_know_a_container_by_the_name_under_which_it_is_scraped(prometheus: str) -> None:
    Path("compose.yml").write_text(COMPOSE)
    said = written(new_stack(compose="compose.yml", prometheus=prometheus))
    assert said["services"]["web"]["metrics"] == "http://localhost:8123/metrics"
    assert list(said["services"])[4:] == ["node-10.0.0.5-9100", "node-10.0.0.6-9100"]


def test_somebody_at_the_terminal_is_asked() -> None:
    answers = iter(
        ["db", "docker", "shop-db", "5432", "", "web", "proces", "process", "serve --now", "80", "health", "db", ""]
    )
    said = written(new_stack(ask=lambda _question, default: next(answers) or default))
    assert said["services"] == {
        "db": {"run": "docker", "container": "shop-db", "ports": [5432], "ready": {"tcp": "localhost:5432"}},
        "web": {
            "run": "process",
            "command": ["serve", "--now"],
            "ports": [80],
            "url": "http://localhost:80",
            "ready": {"http": "http://localhost:80/health"},
            "needs": ["db"],
        },
    }


def test_without_a_source_and_without_anybody_an_example_is_written() -> None:
    assert list(written(new_stack())["services"]) == ["web"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"compose": "nowhere.yml"}, "nowhere.yml: No such file"),
        ({"compose": "text.yml"}, "text.yml has no `services`"),
        ({"compose": "broken.yml"}, "broken.yml is not YAML"),
        ({"prometheus": "http://127.0.0.1:1"}, "no Prometheus answers at http://127.0.0.1:1"),
        ({"prometheus": "localhost:9090"}, "no Prometheus answers at localhost:9090"),
    ],
)
def test_a_source_that_cannot_be_read_is_told_and_nothing_is_written(options: dict[str, str], said: str) -> None:
    Path("text.yml").write_text("only text")
    Path("broken.yml").write_text("a: [")
    with pytest.raises(UsageError, match=said.replace("[", r"\[")) as told:
        new_stack(**options)
    assert told.value.hint
    assert not Path("runbooks").exists()


@pytest.mark.parametrize("kind", Kind)
def test_a_new_runbook_about_ones_own_stack_is_valid_and_lints_clean(kind: Kind, catalogue: Catalogue) -> None:
    Path("compose.yml").write_text(COMPOSE)
    new_stack(compose="compose.yml")
    path = write_new(kind, "first-try", stack="shop")
    assert path.parent == Path("runbooks/recovery" if kind == Kind.RECOVERY else "runbooks")
    subject = open_subject(path, catalogue)
    assert (subject.runbook.kind, subject.runbook.title) == (kind, "First try")
    assert findings(subject) == []
    if kind in {Kind.SCENARIO, Kind.RECOVERY}:
        assert "service: web" in path.read_text(), "nothing depends on it"


OUTSIDE = """\
stack: 1
name: shop
services:
  proxy: {run: external, ready: {tcp: "127.0.0.1:8080"}, needs: [web]}
  web:
    run: RUN
    start: [systemctl, start, web]
    stop: [systemctl, stop, web]
    ready: {tcp: "127.0.0.1:8081"}
"""


@pytest.mark.parametrize("run", ["external", "ssh, host: web.example"])
@pytest.mark.parametrize("kind", [Kind.SCENARIO, Kind.RECOVERY])
def test_a_service_of_others_that_has_commands_is_broken_and_repaired_by_them(
    kind: Kind, run: str, catalogue: Catalogue
) -> None:
    stacks = Path("runbooks/stacks")
    stacks.mkdir(parents=True)
    (stacks / "shop.yaml").write_text(OUTSIDE.replace("RUN", run.replace(", ", "\n    ")))
    path = write_new(kind, "first-try", stack="shop")
    subject = open_subject(path, catalogue)
    assert findings(subject) == []
    text = path.read_text()
    assert "requires: [web]" in text
    assert ("service.stop: {service: web}" in text) == (kind is Kind.SCENARIO)
    assert "service.kill" not in text
    assert "service.logs" not in text, "it has no command that prints its log"
    logged = (stacks / "shop.yaml").read_text() + "    logs: [journalctl, -u, web]\n"
    (stacks / "shop.yaml").write_text(logged)
    assert "service.logs: {service: web" in write_new(kind, "second-try", stack="shop").read_text()


def test_what_a_stack_cannot_do_is_told(prometheus: str) -> None:
    new_stack(prometheus=prometheus)
    with pytest.raises(UsageError, match="can stop and start no service of shop"):
        write_new("scenario", "crash", stack="shop")
    Path("runbooks/stacks").rename("files")
    with pytest.raises(UsageError, match=r"a runbook in runbooks does not find files/shop\.yaml"):
        write_new("readiness", "ready", stack="files/shop.yaml")


def test_from_an_empty_folder_to_a_scenario_a_recovery_and_a_diagnosis(tmp_path: Path) -> None:
    def k2run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "k2run", *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    k2run("new", "stack", "shop")
    stack = Path("runbooks/stacks/shop.yaml")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stack.write_text(stack.read_text().replace("8123", str(port)))
    k2run("up")
    try:
        k2run("new", "scenario", "web-crash", "--stack", "shop")
        k2run("new", "recovery", "web-down", "--stack", "shop")
        k2run("validate", "runbooks")
        assert "PASSED" in k2run("run", "web-crash", "--plain")
        assert "web-down" in k2run("diagnose").partition("ruled out")[2], "it is among what was looked for"
        assert "PASSED" in k2run("run", "web-down", "--plain", "--unattended")
    finally:
        k2run("down")
