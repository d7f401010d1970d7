"""What a client asks for over one HTTP connection, so that single requests can be answered without the server."""

from __future__ import annotations

from collections.abc import Callable

_END = b"\r\n\r\n"
_LARGEST_HEAD = 64 * 1024

Refusal = Callable[[], int | None]


class Refused(Exception):
    """A request is not let through.

    Attributes:
        answer: What the client gets instead, after which the connection ends.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        body = b'{"detail":{"error":"INJECTED","message":"k2run let this request fail"}}'
        head = f"HTTP/1.1 {status} Injected\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.answer = head.encode() + b"Connection: close\r\n\r\n" + body


class Requests:
    """Finds where each request of a connection begins, and asks whether it may go through.

    A body of unknown length (chunked, or a connection that becomes a WebSocket) ends the asking: the rest goes through.

    Args:
        refusal: The status to answer a request with instead of letting it through; None lets it through.
    """

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._head = b""
        self._left = 0
        self._blind = False

    def read(self, piece: bytes) -> bytes:
        """The next piece as the server may see it; the head of a request is held until it is complete.

        Raises:
            Refused: A request in it is not let through.
        """
        given = b""
        while piece and not self._blind:
            body, piece = piece[: self._left], piece[self._left :]
            self._left -= len(body)
            given += body
            if piece:
                head, piece = self._take_head(piece)
                given += head
        return given + piece

    def _take_head(self, piece: bytes) -> tuple[bytes, bytes]:
        """The head of the next request, when it is complete, and what comes after it."""
        head, end, rest = (self._head + piece).partition(_END)
        if not end:
            self._blind = len(head) > _LARGEST_HEAD
            self._head = b"" if self._blind else head
            return (head, b"") if self._blind else (b"", b"")
        self._head = b""
        if (status := self._refusal()) is not None:
            raise Refused(status)
        fields = _fields(head)
        self._blind = bool({"transfer-encoding", "upgrade"} & fields.keys())
        self._left = int(fields.get("content-length") or 0)
        return head + end, rest


def _fields(head: bytes) -> dict[str, str]:
    """The header fields of a head, their names in small letters."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
