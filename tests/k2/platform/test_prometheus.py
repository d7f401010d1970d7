"""Prometheus started by the sandbox scrapes what it was told to, or says that it is not installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import httpx
import pytest
import yaml
from wheel_programs import free_ports

from k2run.k2.platform.prometheus import NOT_INSTALLED, Target, configuration

installed = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def free_port():
    return free_ports(1)[0]


def up(port):
    """The value of `up` by job; empty while Prometheus does not answer."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": "up"})
    except httpx.TransportError:
        return {}
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # it listens before it is ready
        return {}
    return {one["metric"]["job"]: one["value"][1] for one in answer.json()["data"]["result"]}


def launch(*options, **environment):
    """The program when it has ended, which it must by itself."""
    command = [sys.executable, "-m", "k2run.k2.platform.prometheus", *options]
    env = os.environ | environment
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=20)


@installed
def test_prometheus_scrapes_its_targets_and_reports_the_one_that_is_down(sandbox):
    port, api_port, nobody = free_port(), free_port(), free_port()
    sandbox.api(api_port)
    targets = ("--target", f"k2-api=127.0.0.1:{api_port}", "--target", f"k2-consumer=127.0.0.1:{nobody}")
    program = sandbox.run("prometheus", "--port", port, "--storage", sandbox.directory / "prom", *targets)
    expected = {"prometheus": "1", "k2-api": "1", "k2-consumer": "0"}
    sandbox.wait_for(lambda: up(port) == expected, 20, "every target was scraped")
    assert httpx.get(f"http://127.0.0.1:{port}/-/healthy").status_code == 200
    assert program.stop() in (0, -15)


@installed
def test_a_port_in_use_is_one_line_and_status_1(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = launch("--port", str(port), "--storage", str(tmp_path))
    assert (ended.returncode, ended.stderr) == (1, f"error: port {port} is already in use\n")


def test_without_prometheus_it_ends_with_status_3_and_one_line(tmp_path):
    ended = launch("--storage", str(tmp_path), PATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (NOT_INSTALLED, "")
    assert ended.stderr.startswith("prometheus is not installed: ")
    assert ended.stderr.count("\n") == 1


def test_a_target_without_a_job_is_refused_with_its_form(tmp_path):
    ended = launch("--storage", str(tmp_path), "--target", "127.0.0.1:80")
    assert ended.returncode == 2
    assert "'127.0.0.1:80' is not JOB=HOST:PORT" in ended.stderr


def test_each_target_is_a_job_of_its_name():
    config = yaml.safe_load(configuration([Target("k2-api", "127.0.0.1:18000")], interval_s=2))
    assert config["global"]["scrape_interval"] == "2s"
    assert config["scrape_configs"] == [
        {"job_name": "k2-api", "static_configs": [{"targets": ["127.0.0.1:18000"]}]},
    ]
