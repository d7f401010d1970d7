"""A system that is asked for JSON over HTTP: what its clients have in common."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from k2run.actions.action import beginning
from k2run.adapters._documents import MISREAD
from k2run.adapters.http.client import Answer, Request, send
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls
from k2run.errors import Refused, Unreachable

if TYPE_CHECKING:
    from k2run.actions.deadline import Deadline

_CLOSED = frozenset({401, 403})
SHOWN = 300
"""Characters of a refusing answer that an error quotes."""


class Api(NamedTuple):
    """Where such a system answers.

    Attributes:
        name: What an error calls it: "the schema registry".
        url: Its base URL.
        setting: The connection in the stack file that an error points to: `connections.grafana`.
    """

    name: str
    url: str
    setting: str
    headers: Mapping[str, str]
    tls: Tls = TRUSTING_THE_SYSTEM

    def ask(
        self,
        deadline: Deadline,
        path: str,
        *,
        method: str = "GET",
        sent: Any = None,
        media_type: str = "application/json",
    ) -> Answer:
        """One exchange, whatever its status.

        Raises:
            Unreachable: Nothing answers.
            TimedOut: The deadline passed first.
        """
        headers = {"Accept": "application/json", **self.headers}
        content = b""
        if sent is not None:
            headers["Content-Type"] = media_type
            content = msgspec.json.encode(sent)
        url = self.url.rstrip("/") + path
        try:
            return send(Request(url=url, method=method, headers=headers, content=content, tls=self.tls), deadline)
        except Unreachable as error:
            raise Unreachable(error.message, hint=f"is {self.name} up? see {self.setting} in the stack file") from error

    def read(self, answer: Answer, kind: Any) -> Any:
        """A good answer as `kind`.

        Raises:
            Refused: It is not what such a system answers.
        """
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except MISREAD as error:
            raise Refused(
                f"{self.url} does not answer like {self.name} ({answer.status_line}): {error}",
                hint=f"see {self.setting}.url in the stack file",
            ) from error

    def refusal(self, answer: Answer, doing: str, said: str = "") -> Refused:
        """The error for an answer that says no."""
        hint = f"see the credentials of {self.setting} in the stack file" if answer.status in _CLOSED else ""
        cause = said or beginning(" ".join(answer.text.split()), SHOWN)
        return Refused(f"{self.url} refused to {doing}: {answer.status_line}{': ' * bool(cause)}{cause}", hint=hint)


def basic(user: str, password: str) -> dict[str, str]:
    """The header of basic authentication; nothing without a user."""
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"} if user else {}
