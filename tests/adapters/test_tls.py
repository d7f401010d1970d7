"""The tls actions against real TLS servers, with certificates made here."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from k2run.actions.deadline import Deadline
from k2run.adapters import tls
from k2run.errors import AuthorError, NotApplicable, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TESTED_ON = {"tls": "real TLS servers, with an authority and certificates made by the test"}


def soon(seconds: float = 10) -> Deadline:
    return Deadline(seconds)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """Signs certificates: a root, and an authority between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root_key, self.root = self._authority("Root", None, None)
        self.key, self.between = self._authority("Between", self.root_key, self.root)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.root.public_bytes(serialization.Encoding.PEM))

    def _authority(self, name, signer, above):
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(*[False] * 5, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
        built = (
            self._builder(name, above.subject if above else named(name), key, dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        return key, built.sign(signer or key, hashes.SHA256())

    @staticmethod
    def _builder(name, issuer, key, lasts):
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=90))
            .not_valid_after(now + lasts)
        )

    def issue(self, *names: str, days: float = 30, key=None, whole: bool = True) -> Path:
        """A PEM file with a certificate for the names, the authority between (unless it is left out) and the key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        listed = [x509.IPAddress(ipaddress.ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
        built = self._builder("tested", self.between.subject, key, dt.timedelta(days=days)).add_extension(
            x509.SubjectAlternativeName(listed), critical=False
        )
        made = built.sign(self.key, hashes.SHA256())
        chain = [made, self.between] if whole else [made]
        file = self.folder / f"{made.serial_number}.pem"
        plain = serialization.NoEncryption()
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        file.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain) + secret)
        return file


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Starts a TLS server with a certificate; returns its address."""
    opened: list[socket.socket] = []

    def start(file: Path) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        listener = socket.create_server(("127.0.0.1", 0))
        opened.append(listener)

        def answer() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(link, server_side=True) as secured:
                        secured.recv(1)
                except OSError:  # the other end does not trust it
                    link.close()

        threading.Thread(target=answer, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in opened:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def none(services):
    return services("")


def test_a_valid_certificate_with_its_chain_and_names(authority, serve, none):
    address = serve(authority.issue("api.test", "*.shop.test", "127.0.0.1"))
    found = tls.certificate(none, soon(), address=address, ca=str(authority.ca))
    assert (found.trusted, found.why_not, found.name_matches) == (True, "", True)
    assert found.names == ["api.test", "*.shop.test", "127.0.0.1"]
    assert (found.subject, found.issuer, found.self_signed) == ("CN=tested", "CN=Between", False)
    assert [link.subject for link in found.chain] == ["CN=tested", "CN=Between"]
    assert 29.9 < found.days_left < 30
    assert found.soonest_days_left == found.days_left
    assert (found.key, found.protocol, len(found.sha256)) == ("EC 256", "TLSv1.3", 64)
    assert found.source == f"tls {address}"
    assert found.headline() == "CN=tested, 30 days left"


@pytest.mark.parametrize(
    ("name", "matches"),
    [("api.test", True), ("API.TEST", True), ("a.shop.test", True), ("shop.test", False), ("a.b.shop.test", False)],
)
def test_a_name_is_compared_as_clients_do(authority, serve, none, name, matches):
    address = serve(authority.issue("api.test", "*.shop.test"))
    assert tls.certificate(none, soon(), address=address, name=name, ca=str(authority.ca)).name_matches is matches


def test_one_that_has_expired_is_described_and_not_trusted(authority, serve, none):
    found = tls.certificate(none, soon(), address=serve(authority.issue("127.0.0.1", days=-3)), ca=str(authority.ca))
    assert not found.trusted
    assert "expired" in found.why_not
    assert -3.1 < found.days_left < -2.9
    assert found.headline() == "CN=tested, expired 3 days ago; certificate has expired"


def test_an_unknown_authority_a_missing_link_and_a_wrong_name_are_told_apart(authority, serve, none):
    whole = serve(authority.issue("api.test"))
    stranger = tls.certificate(none, soon(), address=whole)
    assert not stranger.trusted
    assert "self-signed certificate in certificate chain" in stranger.why_not or "unable to get" in stranger.why_not
    assert (stranger.name_matches, "valid for api.test only" in stranger.headline()) == (False, True)
    cut = serve(authority.issue("127.0.0.1", whole=False))
    found = tls.certificate(none, soon(), address=cut, ca=str(authority.ca))
    assert not found.trusted
    assert "unable to get local issuer certificate" in found.why_not
    assert len(found.chain) == 1


def test_the_service_of_the_stack_says_where(authority, serve, services):
    address = serve(authority.issue("127.0.0.1"))
    stack = services(f"api: {{run: external, url: 'https://{address}/v1'}}\nbare: {{run: external}}")
    assert tls.certificate(stack, soon(), service="api", ca=str(authority.ca)).trusted
    with pytest.raises(NotApplicable, match="no url"):
        tls.certificate(stack, soon(), service="bare")
    with pytest.raises(AuthorError, match="either a service or an address"):
        tls.certificate(stack, soon())
    with pytest.raises(Refused, match=r"no certificates to trust.*`ca`"):
        tls.certificate(stack, soon(), service="api", ca=__file__)


def test_a_file_is_read_with_its_chain(authority, tmp_path):
    found = tls.file(str(authority.issue("api.test", days=400, key=rsa.generate_private_key(65537, 2048))))
    assert (found.key, len(found.chain), found.names) == ("RSA 2048", 2, ["api.test"])
    assert 399 < found.days_left < 400
    assert tls.file(str(authority.issue("a.test", key=ed25519.Ed25519PrivateKey.generate()))).key == "Ed25519"
    assert tls.file(str(authority.ca)).self_signed
    with pytest.raises(Unreachable, match="No such file"):
        tls.file(str(tmp_path / "gone.pem"))
    (tmp_path / "other.pem").write_text("hello")
    with pytest.raises(Refused, match="no certificate in PEM"):
        tls.file(str(tmp_path / "other.pem"))


def test_a_port_without_tls_a_closed_one_and_a_silent_one_each_say_what_to_check(services, speaker, authority):
    plain = speaker(lambda link: link.sendall(b"SSH-2.0-OpenSSH\r\n")).removeprefix("http://")
    with pytest.raises(Refused, match=rf"TLS handshake with {plain} failed.*is it a TLS port"):
        tls.certificate(services(""), soon(), address=plain)
    stack = services("api: {run: external, url: 'https://127.0.0.1:1'}")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 does not answer.*services\.api\.url"):
        tls.certificate(stack, soon(), service="api")
    silent = speaker(lambda _: time.sleep(30)).removeprefix("http://")
    started = time.monotonic()
    with pytest.raises(TimedOut, match=silent):
        tls.certificate(services(""), soon(0.5), address=silent)
    assert time.monotonic() - started < 3
