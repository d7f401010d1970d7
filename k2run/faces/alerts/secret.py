"""The secret by which senders of alerts prove themselves."""

from __future__ import annotations

import hmac
import os
from hashlib import sha256
from secrets import token_urlsafe
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "K2RUN_HOOKS_SECRET"  # noqa: S105 - the name of a variable


def hooks_secret(home: Path) -> str:
    """The secret: from the environment, else from a private file of the k2run home, which is made when missing."""
    given = os.environ.get(SECRET, "")
    if given:
        return given
    path = home / "hooks-secret"
    home.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(file, "w") as output:
        output.write(made := token_urlsafe(32))
    return made


def bears(header: str, secret: str) -> bool:
    """Whether an `Authorization` header carries the secret as its bearer token."""
    scheme, _, token = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), secret.encode())


def signed(header: str, body: bytes, secret: str) -> bool:
    """Whether a signature `sha256=<hex>` is the one that the secret gives to the body."""
    made = hmac.new(secret.encode(), body, sha256).hexdigest()
    return hmac.compare_digest(header.strip().lower().removeprefix("sha256=").encode(), made.encode())
