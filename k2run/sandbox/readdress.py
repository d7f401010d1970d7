"""A broker tells its clients where it is; behind a link it has to tell them where the link is."""

from __future__ import annotations

_SIZE = 4  # bytes that say how long a Kafka message is


class Readdress:
    """Replaces a broker's address by the link's in what the broker says on one connection.

    A broker tells its clients where it is, as text and a port of four bytes. Only the port is changed, so no length is.

    Args:
        upstream: The broker's address.
        listen: The link's address, on the same host.
    """

    def __init__(self, upstream: str, listen: str) -> None:
        host, port = address(upstream)
        self._old = host.encode() + port.to_bytes(_SIZE)
        self._new = host.encode() + address(listen)[1].to_bytes(_SIZE)
        self._held = b""
        self._head = b""
        self._left = 0

    def read(self, piece: bytes) -> bytes:
        """The next piece as the client may see it; in the middle of a message a few bytes may be held back."""
        data = (self._held + piece).replace(self._old, self._new)
        held = _beginning_of(self._old, data) if self._is_inside(piece) else 0
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def _is_inside(self, piece: bytes) -> bool:
        """Whether a message is still incomplete after this piece; each begins with its length."""
        at = 0
        while at < len(piece):
            if self._left:
                step = min(self._left, len(piece) - at)
                self._left -= step
            else:
                step = min(_SIZE - len(self._head), len(piece) - at)
                self._head += piece[at : at + step]
                if len(self._head) == _SIZE:
                    self._left, self._head = int.from_bytes(self._head), b""
            at += step
        return bool(self._left or self._head)


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises:
        ValueError: It is no such thing.
    """
    host, colon, port = text.rpartition(":")
    if not host or not colon:
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


def _beginning_of(pattern: bytes, data: bytes) -> int:
    """How many bytes at the end of `data` may be the beginning of `pattern`."""
    return next((size for size in range(len(pattern) - 1, 0, -1) if data.endswith(pattern[:size])), 0)
