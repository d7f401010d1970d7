"""Prometheus, the real one: writes its configuration from the targets named, then becomes it (exec).

Each target `JOB=HOST:PORT` is a scrape job of that name; Prometheus also scrapes itself as job `prometheus`. Without
the binary on PATH the program ends with status 3, which the stack takes as "not applicable" and not as a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from k2run.k2.platform.program import log, require_free_port

NOT_INSTALLED = 3
_TARGET = re.compile(r"(?P<job>[\w.-]+)=(?P<address>[\w.\[\]:-]+:\d{1,5})")


class Target(NamedTuple):
    """One scrape job and the one address it reads `/metrics` from."""

    job: str
    address: str


def target(text: str) -> Target:
    """`JOB=HOST:PORT` as a target."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not JOB=HOST:PORT")
    return Target(found["job"], found["address"])


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.prometheus", description=__doc__)
    parser.add_argument("--port", type=int, default=19090, help="port to answer on, on 127.0.0.1 (default: 19090)")
    parser.add_argument(
        "--storage", type=Path, required=True, help="directory of the time series and the configuration"
    )
    parser.add_argument("--target", type=target, action="append", default=[], help="JOB=HOST:PORT, may be repeated")
    parser.add_argument("--interval", type=int, default=2, help="seconds between scrapes (default: 2)")
    return parser


def configuration(targets: list[Target], interval_s: int) -> str:
    """Prometheus's configuration file."""
    import yaml

    jobs = [{"job_name": one.job, "static_configs": [{"targets": [one.address]}]} for one in targets]
    every = {"scrape_interval": f"{interval_s}s", "scrape_timeout": f"{interval_s}s"}
    return yaml.safe_dump({"global": every, "scrape_configs": jobs}, sort_keys=False)


def main() -> None:
    """Become Prometheus."""
    options = arguments().parse_args()
    binary = shutil.which("prometheus")
    if binary is None:
        print(
            "prometheus is not installed: its checks do not apply (Debian: apt-get install prometheus)", file=sys.stderr
        )
        sys.exit(NOT_INSTALLED)
    require_free_port(options.port)
    storage: Path = options.storage.resolve()
    storage.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{options.port}"
    config = storage / "prometheus.yml"
    config.write_text(
        configuration([Target("prometheus", address), *options.target], options.interval), encoding="utf-8"
    )
    log("prometheus_starting", url=f"http://{address}", config=config, targets=len(options.target))
    flags = {
        "config.file": config,
        "storage.tsdb.path": storage / "tsdb",
        "storage.tsdb.retention.time": "7d",
        "web.listen-address": address,
        "log.level": "warn",
    }
    os.execv(binary, ["prometheus", *(f"--{name}={value}" for name, value in flags.items())])  # noqa: S606  the point of this program


if __name__ == "__main__":
    main()
