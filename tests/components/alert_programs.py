"""The real Prometheus and the real Alertmanager on the shipped rules and configuration, with services to scrape."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from wheel_programs import free_ports

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICE = """\
import http.server, sys
class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-type", "text/plain"); self.end_headers()
        self.wfile.write(b"alive 1\\n")
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Metrics).serve_forever()
"""


def program(*names: str) -> str:
    """The path of a program; the test is skipped where it is not installed."""
    import shutil

    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"{names[0]} is not installed (Debian: {names[0]})")
    return found


class AlertChain:
    """Services, Prometheus and Alertmanager, as processes.

    Args:
        folder: For their files.
        hooks: The address of the receiver.
        secret: The receiver's.
        jobs: The jobs of the services.
        quick: Scrape and evaluate each second, and fire after one; otherwise as shipped.
        ports: Where the services of the jobs are, if they run already.
    """

    def __init__(  # noqa: PLR0913 - one value for each part
        self,
        folder: Path,
        hooks: str,
        secret: str,
        jobs: list[str],
        *,
        quick: bool,
        ports: dict[str, int] | None = None,
    ) -> None:
        self.programs = program("prometheus"), program("prometheus-alertmanager", "alertmanager")
        self._folder, self._quick = folder, quick
        self._ports = dict(zip(["prometheus", "alertmanager", *jobs], free_ports(len(jobs) + 2), strict=True))
        self._ports |= ports or {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "secret").write_text(secret)
        self.alertmanager_file = folder / "alertmanager.yaml"
        config = yaml.safe_load((DEPLOY / "prometheus" / "alertmanager.yaml").read_text())
        [hook] = config["receivers"][0]["webhook_configs"]
        hook["url"] = hooks
        hook["http_config"]["authorization"]["credentials_file"] = str(folder / "secret")
        if quick:
            config["route"] |= {"group_wait": "500ms", "group_interval": "1s"}
        self.write_alertmanager(config)
        self._write_prometheus(jobs)
        for job in jobs if ports is None else []:
            self.start(job)
        self.start("alertmanager")
        self.start("prometheus")

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def write_alertmanager(self, config: dict[str, Any]) -> None:
        self.config = config
        self.alertmanager_file.write_text(yaml.safe_dump(config))

    def _write_prometheus(self, jobs: list[str]) -> None:
        shipped = yaml.safe_load((DEPLOY / "compose" / "prometheus" / "prometheus.yml").read_text())
        rules = (DEPLOY / "compose" / "prometheus" / "rules" / "k2.yml").read_text()
        if self._quick:
            shipped["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
            rules = rules.replace("for: 30s", "for: 1s")
        (self._folder / "rules.yml").write_text(rules)
        config = {
            "global": shipped["global"],
            "rule_files": ["rules.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [self.url("alertmanager")[7:]]}]}]},
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [self.url(job)[7:]]}]} for job in jobs],
        }
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def start(self, name: str) -> None:
        """Start a service, or one of the two programs, and wait until it answers."""
        prometheus, alertmanager = self.programs
        folder, port = self._folder, self._ports[name]
        words = {
            "prometheus": [
                *(prometheus, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"),
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            "alertmanager": [
                *(alertmanager, f"--config.file={self.alertmanager_file}", f"--storage.path={folder}/alertmanager"),
                *(f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="),
            ],
        }.get(name, [sys.executable, "-c", SERVICE, str(port)])
        with (folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        path = "/-/ready" if name in {"prometheus", "alertmanager"} else "/metrics"
        end = time.monotonic() + 30
        while not _answers(self.url(name) + path):
            assert time.monotonic() < end, (folder / f"{name}.log").read_text()
            time.sleep(0.1)

    def kill(self, name: str) -> float:
        """Kill -9; returns when (monotonic)."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)
        return time.monotonic()

    def end(self) -> None:
        while self.processes:
            self.kill(next(iter(self.processes)))

    def post(self, path: str, content: Any) -> Any:
        """Post to Alertmanager's API."""
        answer = httpx.post(f"{self.url('alertmanager')}/api/v2/{path}", json=content)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False
