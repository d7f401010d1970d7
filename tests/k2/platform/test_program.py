"""What all programs of the platform share."""

from __future__ import annotations

import asyncio
import socket

import pytest

from k2run.k2.platform.program import take_port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_in_two_packets_is_sent_at_once(host: str) -> None:
    async def options() -> list[int]:
        found: asyncio.Queue[int] = asyncio.Queue()

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.put_nowait(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        taken = take_port(0, host)
        async with await asyncio.start_server(answer, sock=taken):
            _, writer = await asyncio.open_connection(*taken.getsockname()[:2])
            writer.close()
            return [await found.get()]

    try:
        assert asyncio.run(options()) == [1]
    except OSError as error:
        pytest.skip(f"{host} is not an address of this machine: {error}")
