"""Finds a secret in a text, however it is written there."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from urllib.parse import quote, quote_plus


def found(secret: str, text: str) -> set[str]:
    """Under which encodings a secret stands in a text."""
    raw = secret.encode()
    small = re.sub("%..", lambda code: code[0].lower(), quote(secret, safe=""))
    spellings = {
        "itself": secret,
        "json": json.dumps(secret)[1:-1],
        "json, not ascii": json.dumps(secret, ensure_ascii=False)[1:-1],
        "json twice": json.dumps(json.dumps(secret))[3:-3],
        "repr": repr(secret)[1:-1],
        "repr of bytes": repr(raw)[2:-1],
        "shell": shlex.quote(secret).strip("'"),
        "url": quote(secret, safe=""),
        "url, small letters": small,
        "path": quote(secret),
        "form": quote_plus(secret),
        "html": html.escape(secret),
        **{
            f"base64, {shift} before": encode(b"x" * shift + raw).decode()[
                -(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6
            ]
            for shift in range(3)
            for encode in (base64.b64encode, base64.urlsafe_b64encode)
        },
    }
    return {name for name, form in spellings.items() if len(form) > 4 and form in text} | (
        {"itself"} if secret in text else set()
    )
