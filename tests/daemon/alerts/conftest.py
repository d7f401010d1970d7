from __future__ import annotations

import hmac
import json
import socket
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from k2run.daemon.alerts.incident_store import IncidentStore
from k2run.daemon.alerts.worker import Worker
from k2run.engine.store import Store
from k2run.web.incidents import hook_routes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "a secret for this test alone"
RECOVERY = """\
runbook: 1
kind: recovery
name: {name}
stack: {stack}
inputs: {{topic: {{type: string, default: ""}}}}
alerts:
  - labels: {{alertname: {alert}}}
    start: {start}
    stack: {stack}
    inputs: {{topic: "{{{{ labels.topic }}}}"}}
symptoms: [{{name: It is broken, file.size: {{path: "{broken}"}}, expect: result.bytes > 0}}]
sections:
  - steps:
      - wait: {{for: {seconds}}}
      - {{name: Mend it, shell.run: {{command: "true"}}, when: {changes}}}
      - assert: {{that: "topic == 'trades'"}}
"""


def alert(name: str, status: str = "firing", since: str = "2026-11-21T10:00:00Z", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": name, **labels},
        "annotations": {"summary": f"{name} in the test"},
        "startsAt": since,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
    }


def delivery(key: str, *alerts: dict[str, Any]) -> dict[str, Any]:
    """What Alertmanager posts."""
    firing = any(one["status"] == "firing" for one in alerts)
    return {
        "version": "4",
        "groupKey": key,
        "truncatedAlerts": 0,
        "status": "firing" if firing else "resolved",
        "receiver": "k2run",
        "groupLabels": {"alertname": alerts[0]["labels"]["alertname"]},
        "commonLabels": alerts[0]["labels"],
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "alerts": list(alerts),
    }


@dataclass
class Receiver:
    """The hooks on an address of their own."""

    folder: Path
    url: str
    incidents: IncidentStore
    store: Store
    client: httpx.Client
    served: Served

    alert = staticmethod(alert)
    delivery = staticmethod(delivery)

    def post(self, content: Any, token: str = SECRET) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return self.client.post(f"{self.url}/hooks/alertmanager", json=content, headers=headers)

    def post_signed(self, content: Any, secret: str = SECRET, late_s: float = 0.0) -> httpx.Response:
        body = json.dumps(content).encode()
        at = str(int(time.time() - late_s))
        signature = hmac.new(secret.encode(), f"{at}.".encode() + body, sha256).hexdigest()
        return self.send(body, {"x-k2run-time": at, "x-k2run-signature": f"sha256={signature}"})

    def send(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return self.client.post(f"{self.url}/hooks/generic", content=body, headers=headers)

    @property
    def broken(self) -> Path:
        """While something is in this file, every runbook's symptoms are present."""
        return self.folder / "broken"

    def runbook(self, name: str, alertname: str, start: str, seconds: str = "0s", changes: str = "true") -> None:
        path = self.folder / "runbooks" / "recovery" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"alert": alertname, "start": start, "stack": self.stack, "broken": self.broken, "seconds": seconds}
        path.write_text(RECOVERY.format(name=name, changes=changes, **values))
        self.broken.write_text("broken")

    @property
    def stack(self) -> str:
        path = self.folder / "nothing.yaml"
        path.write_text("stack: 1\nname: nothing\n")
        return str(path)

    def keep(self) -> Worker:
        return Worker(self.store, self.incidents, self.stack, watch_s=0.2)  # a healthy stack is watched for 20 s else


class Served:
    """The hooks of a store behind a port, which can be stopped and started like a server that restarts."""

    def __init__(self, store: Store) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._store = store
        self.start()

    def start(self) -> None:
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        app = Starlette(routes=hook_routes(IncidentStore(self._store.home), SECRET))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "home")
    served = Served(store)
    with httpx.Client() as client:
        url = f"http://127.0.0.1:{served.port}"
        yield Receiver(tmp_path, url, IncidentStore(store.home), store, client, served)
    served.stop()
