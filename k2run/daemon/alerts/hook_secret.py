"""The secret by which senders of alerts prove themselves."""

from __future__ import annotations

import hmac
import os
import re
from hashlib import sha256
from secrets import token_urlsafe
from typing import TYPE_CHECKING

from k2run.errors import OperatorError
from k2run.owned import look_private, make_private

if TYPE_CHECKING:
    from pathlib import Path

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
