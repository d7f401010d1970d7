"""Deliveries of alerts: Alertmanager's webhook or a plain form, and the secret that proves their senders."""

from __future__ import annotations

import hmac
import os
import re
from datetime import datetime
from hashlib import sha256
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from k2run.errors import OperatorError, UsageError
from k2run.files import look_private, make_private
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from pathlib import Path

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What is raised for bytes that are no JSON, no UTF-8, nested without end, or of another form."""


class Alert(Struct, frozen=True, kw_only=True, rename="camel"):
    """One alert, as Alertmanager sends it.

    Attributes:
        fingerprint: Names the alert by its labels; made from them when the sender gives none.
    """

    status: Literal["firing", "resolved"]
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    starts_at: str = ""
    ends_at: str = ""
    fingerprint: str = ""

    @property
    def mark(self) -> str:
        """What tells it from the other alerts of its group."""
        written = msgspec.json.encode(self.labels, order="deterministic")
        return self.fingerprint or sha256(written).hexdigest()[:16]

    @property
    def is_firing(self) -> bool:
        """Whether it fires."""
        return self.status == "firing"

    @property
    def started(self) -> float:
        """When it began to fire, in seconds since 1970; 0 when that is not said."""
        try:
            return max(0.0, datetime.fromisoformat(self.starts_at).timestamp())
        except (ValueError, OverflowError):
            return 0.0

    @property
    def began(self) -> float:
        """When what it is about began, in seconds since 1970; 0 when that is not said.

        An alert fires only after its rule's `for`; rules that name that in an annotation `for` let it be counted.
        """
        try:
            waited = float(Duration.parse(self.annotations.get("for", "0s")))
        except ValueError:
            waited = 0.0
        return max(0.0, self.started - waited)

    @property
    def title(self) -> str:
        """What people call it."""
        words = (self.annotations.get("summary"), self.labels.get("alertname"), self.mark)
        return next(word for word in words if word)


class Delivery(Struct, frozen=True, kw_only=True, rename="camel"):
    """A group of alerts, delivered together; deliveries with the same key belong to the same incident."""

    group_key: str
    alerts: list[Alert]
    status: Literal["firing", "resolved"] = "firing"
    group_labels: dict[str, str] = {}
    common_labels: dict[str, str] = {}
    common_annotations: dict[str, str] = {}
    truncated_alerts: int = 0


class Plain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An alert of any other sender.

    Attributes:
        key: Deliveries with the same key belong to the same incident.
    """

    key: str
    title: str = ""
    status: Literal["firing", "resolved"] = "firing"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


def read_alertmanager(body: bytes) -> Delivery:
    """Read what Alertmanager posts (version 4).

    Raises:
        UsageError: It is something else.
    """
    try:
        found = msgspec.json.decode(body, type=Delivery)
    except UNREADABLE as error:
        raise UsageError(f"not a delivery of Alertmanager: {error}", hint="it expects version 4") from error
    if not found.alerts or not found.group_key:
        raise UsageError("a delivery without alerts, or without its group's key")
    return found


def read_plain(body: bytes) -> Delivery:
    """Read a plain alert.

    Raises:
        UsageError: It is something else.
    """
    try:
        found = msgspec.json.decode(body, type=Plain)
    except UNREADABLE as error:
        raise UsageError(
            f"not an alert: {error}", hint='{"key": "…", "title": "…", "status": "firing", "labels": {}}'
        ) from error
    if not found.key:
        raise UsageError("an alert needs a key", hint="alerts with the same key are one incident")
    annotations = {"summary": found.title, **found.annotations} if found.title else found.annotations
    alert = Alert(status=found.status, labels=found.labels, annotations=annotations)
    return Delivery(group_key=found.key, alerts=[alert], status=found.status, common_labels=found.labels)


SECRET = "K2RUN_HOOKS_SECRET"  # noqa: S105 - the name of a variable
FILE = "hooks-secret"
SIGNATURE, TIME = "x-k2run-signature", "x-k2run-time"
"""Headers of a signed message: the signature, and the time (seconds since 1970) that it covers with the body."""
WINDOW_S = 300.0
"""Seconds by which the time of a signature may differ from ours."""

_TIME = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")


def hooks_secret(home: Path) -> str:
    """The secret: from the environment, else from a private file of the k2run home, which is made when missing.

    Raises:
        OperatorError: It is empty, which everybody could sign with, or others can read it.
    """
    given = os.environ.get(SECRET)
    if given is not None:
        if not given.strip():
            raise OperatorError(f"{SECRET} is empty", hint=f"unset it, and {home / FILE} is used")
        return given
    path = home / FILE
    make_private(path, token_urlsafe(32))
    secret = look_private(path)[0].strip()
    if not secret:
        raise OperatorError(f"{path} is empty", hint="delete it, and a new one is made")
    return secret


def bears(header: str, secret: str) -> bool:
    """Whether an `Authorization` header carries the secret as its bearer token."""
    scheme, _, token = header.partition(" ")
    return bool(secret) and scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), secret.encode())


def signature_of(at: str, body: bytes, secret: str) -> str:
    """The signature of a body that is sent at a time: `sha256=<hex>` over the time, a dot, and the body."""
    return "sha256=" + hmac.new(secret.encode(), at.encode() + b"." + body, sha256).hexdigest()


def signed(header: str, at: str, body: bytes, secret: str) -> bool:
    """Whether a signature is the one that the secret gives to the body at that time."""
    made = signature_of(at, body, secret)
    return bool(secret) and hmac.compare_digest(header.strip().lower().encode(), made.encode())


def is_timely(at: str, now: float) -> bool:
    """Whether a time in seconds since 1970, whole or with decimals, is near enough to ours."""
    return _TIME.fullmatch(at) is not None and abs(now - float(at)) <= WINDOW_S
