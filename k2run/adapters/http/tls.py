"""How an HTTPS server is trusted."""

from __future__ import annotations

import ssl
from functools import cache

from msgspec import Struct

from k2run.errors import Refused


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an HTTPS server is trusted and how the client shows itself.

    Attributes:
        verify: Whether the server's certificate must be valid.
        ca: File with the certificates to trust; empty means the system's.
        certificate: File with the client's certificate.
        private_key: File with its key, unless the certificate's file has it.
    """

    verify: bool = True
    ca: str = ""
    certificate: str = ""
    private_key: str = ""


TRUSTING_THE_SYSTEM = Tls()


@cache
def trust(tls: Tls) -> ssl.SSLContext:
    """The SSL context for such trust.

    Raises:
        Refused: A file is missing or is no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.private_key or None)
    except OSError as error:
        raise Refused(
            f"the TLS files cannot be used: {error}", hint="look at tls: {ca, certificate, private_key}"
        ) from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
