"""Style sheet, script and icon: three files, held in memory, under an address that changes with them."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

from k2run.faces.web.pictures import HERE

if TYPE_CHECKING:
    from starlette.requests import Request

TYPES = {"k2run.css": "text/css", "k2run.js": "text/javascript", "k2run.svg": "image/svg+xml"}
FILES = {name: (HERE / "static" / name).read_bytes() for name in TYPES}
VERSION = sha256(b"".join(FILES.values())).hexdigest()[:12]


async def static(request: Request) -> Response:
    """One of the files."""
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    return Response(
        FILES[name], media_type=TYPES[name], headers={"cache-control": "public, max-age=31536000, immutable"}
    )


async def icon(request: Request) -> Response:  # noqa: ARG001 - the form of an endpoint
    """What a browser asks for on a page that names no icon."""
    return Response(FILES["k2run.svg"], media_type=TYPES["k2run.svg"])
