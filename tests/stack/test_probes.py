"""What a look at a service tells."""

from __future__ import annotations

import socket
import threading

from k2run.stack.model import Ready
from k2run.stack.probes import probe


def test_a_connection_that_is_closed_without_a_word_is_no_answer() -> None:
    """A proxy takes the connection of a service that has ended, and can only close it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def turn_away() -> None:
            server.accept()[0].close()

        threading.Thread(target=turn_away, daemon=True).start()
        seen = probe(Ready(http=f"http://127.0.0.1:{server.getsockname()[1]}/health"), 5)
    assert not seen.answered
    assert not seen.ready
    assert seen.detail
