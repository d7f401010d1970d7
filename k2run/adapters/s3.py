"""S3 stores such as MinIO: buckets, objects, and whether the store really answers.

Long because the adapter is one module: its connection, its signed requests, its results and its actions.

Why no library: pyarrow.fs takes an HTML page for an empty store, lists no keys by prefix and tells no dates of buckets;
minio brings 16 MB of pycryptodome and 0.2 s of imports, boto3 more.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree as ET

from msgspec import Struct

from k2run.actions.action import Blast, Effect, Result, Striking, Undo, action, beginning, fault
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters.http.client import Answer, Request, send
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls
from k2run.errors import ActionError, AuthorError, Refused, Unknown, Unreachable
from k2run.language.quantities import Size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


_ALGORITHM = "AWS4-HMAC-SHA256"
_SETTING = "see connections.s3 in the stack file"
_KEPT = "-._~"
"""What S3's canonical form leaves as it is, beside letters and digits."""
_ABSENT = {"NoSuchBucket": "bucket", "NoSuchKey": "object", "NoSuchUpload": "upload"}
_ENTRY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "RequestTimeTooSkewed", "InvalidToken"}
KEPT = ".k2run-kept"
"""Added to the key of what is put aside."""
LARGEST_IN_JOURNAL = 64 * 1024
"""Bytes of an object that its result still shows."""


class S3(Connection, frozen=True, kw_only=True, key="s3"):
    """An S3 store such as MinIO; buckets are named in the path.

    Attributes:
        endpoint: Its base URL, such as `http://127.0.0.1:9000`.
        access_key: Name of the key.
        secret_key: The key's secret.
        session_token: Of temporary credentials; otherwise empty.
        region: What the store calls its region.
        tls: How an HTTPS store is trusted.
    """

    endpoint: str
    access_key: str
    secret_key: str
    session_token: str = ""
    region: str = "us-east-1"
    tls: Tls = TRUSTING_THE_SYSTEM

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"s3 {self.endpoint}"


def place(bucket: str = "", key: str = "") -> str:
    """The path of a bucket or an object."""
    return "/" + "/".join(filter(None, [_quoted(bucket), quote(key, safe=f"/{_KEPT}")]))


def ask(
    s3: S3,
    deadline: Deadline,
    path: str,
    *,
    method: str = "GET",
    query: Mapping[str, str] | None = None,
    content: bytes = b"",
    doing: str = "",
) -> Answer:
    """One signed request that must succeed.

    `doing` is what is asked, for the message of an error: "list the bucket 'warehouse'".

    Raises:
        Unreachable: Nothing answers, or the store says that it cannot work.
        Refused: It says no.
        Unknown: There is no such bucket or object.
    """
    asked = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted((query or {}).items()))
    url = s3.endpoint.rstrip("/") + path + ("?" + asked if asked else "")
    headers = signed(s3, method, path, asked, content, datetime.now(UTC))
    try:
        answer = send(Request(url=url, method=method, headers=headers, content=content, tls=s3.tls), deadline)
    except Unreachable as error:
        raise Unreachable(error.message, hint=f"is the store up? {_SETTING}") from error
    if not 200 <= answer.status < 300:  # noqa: PLR2004 - the 2xx
        raise _failure(s3, answer, doing or f"{method} {path}")
    return answer


def signed(s3: S3, method: str, path: str, query: str, content: bytes, now: datetime) -> dict[str, str]:
    """The headers of a request, with its signature.

    Path and query are percent-encoded, the query is sorted. `now` is UTC: stores refuse requests that are more than a
    quarter of an hour off.
    """
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(content).hexdigest()
    headers = {"host": urlsplit(s3.endpoint).netloc, "x-amz-content-sha256": digest, "x-amz-date": moment}
    if s3.session_token:
        headers["x-amz-security-token"] = s3.session_token
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"{method}\n{path}\n{query}\n{listed}\n{names}\n{digest}"
    scope = f"{moment[:8]}/{s3.region}/s3/aws4_request"
    to_sign = "\n".join([_ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{s3.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    authorization = f"{_ALGORITHM} Credential={s3.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "Authorization": authorization}


def document(s3: S3, answer: Answer) -> ET.Element:
    """The XML of an answer, with tags as the documentation names them.

    Raises:
        Refused: It is no XML, so this is no S3 store.
    """
    try:
        root = ET.fromstring(answer.content)  # noqa: S314 - expat bounds entities, and the body is bounded too
    except ET.ParseError as error:
        raise Refused(f"{s3.endpoint} does not answer like an S3 store: {error}", hint=_SETTING) from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def pages(s3: S3, deadline: Deadline, bucket: str, prefix: str) -> Iterator[Iterable[ET.Element]]:
    """The objects of a bucket, up to a thousand at a time."""
    query = {"list-type": "2", "prefix": prefix}
    while True:
        answer = ask(s3, deadline, place(bucket), query=query, doing=f"list the bucket {bucket!r}")
        found = document(s3, answer)
        if found.tag != "ListBucketResult":
            raise Refused(f"{s3.endpoint} does not answer like an S3 store: {found.tag}", hint=_SETTING)
        yield found.iter("Contents")
        following = found.findtext("NextContinuationToken")
        if found.findtext("IsTruncated") != "true" or not following:
            return
        query["continuation-token"] = following


def _failure(s3: S3, answer: Answer, doing: str) -> ActionError:
    code, message = _said(s3, answer)
    if code in _ABSENT:
        return Unknown(f"cannot {doing} at {s3.endpoint}: there is no such {_ABSENT[code]}", hint="check the name")
    if answer.status in {500, 502, 503, 504}:
        return Unreachable(f"{s3.endpoint} cannot {doing} now: {answer.status_line} {message}", hint=_SETTING)
    hint = f"access_key, secret_key, region: {_SETTING}" if code in _ENTRY else ""
    return Refused(f"{s3.endpoint} refused to {doing}: {code or answer.status_line} {message}".rstrip(), hint=hint)


def _said(s3: S3, answer: Answer) -> tuple[str, str]:
    """S3's code and message; an answer to HEAD has neither."""
    if not answer.content:
        return {404: "NoSuchKey", 403: "AccessDenied"}.get(answer.status, ""), ""
    try:
        said: Any = document(s3, answer)
    except Refused:
        return "", beginning(" ".join(answer.text.split()), 200)
    return said.findtext("Code", ""), said.findtext("Message", "")


def _quoted(text: str) -> str:
    return quote(text, safe=_KEPT)


class Bucket(Struct, frozen=True, kw_only=True):
    """One bucket; `created` is ISO 8601 in UTC."""

    name: str
    created: str


class Buckets(Result, frozen=True, kw_only=True):
    """The buckets that this user sees."""

    names: list[str]
    count: int
    buckets: list[Bucket]

    def headline(self) -> str:
        """Their names."""
        return ", ".join(self.names[:5]) or "no buckets"


class Object(Struct, frozen=True, kw_only=True):
    """One object; `changed` is ISO 8601 in UTC."""

    key: str
    bytes: int
    changed: str


class Objects(Result, frozen=True, kw_only=True):
    """The objects of a bucket below a prefix.

    Attributes:
        count: All of them.
        bytes: Of all of them together.
        newest_age_s: Seconds since the last one was written; None when there is none.
        objects: The first of them, by key.
    """

    bucket: str
    prefix: str
    count: int
    bytes: int
    newest_age_s: float | None
    objects: list[Object]

    def headline(self) -> str:
        """Such as `12 objects, 4.1MiB`."""
        return f"{self.count:,} objects, {Size(self.bytes)}"


class Stored(Result, frozen=True, kw_only=True):
    """An object, as it went to the store or came from there.

    Attributes:
        sha256: Of its content, in hexadecimal.
        text: Its content, where that is short text.
    """

    bucket: str
    key: str
    bytes: int
    sha256: str
    text: str = ""

    def headline(self) -> str:
        """Such as `warehouse/probe, 12 bytes`."""
        return f"{self.bucket}/{self.key}, {self.bytes:,} bytes"


class Deleted(Result, frozen=True, kw_only=True):
    """An object that is gone; `deleted` is whether it was there."""

    bucket: str
    key: str
    deleted: bool


class Health(Result, frozen=True, kw_only=True):
    """A store that lets this user list the buckets.

    Attributes:
        live: What MinIO's own liveness probe says; None where the store has none.
        ready: What MinIO's probe of a write quorum says; None where the store has none.
        buckets: How many it shows.
    """

    live: bool | None
    ready: bool | None
    buckets: int
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `4 buckets, 3.1 ms`."""
        wrong = [word for word, said in (("not live", self.live), ("no write quorum", self.ready)) if said is False]
        return ", ".join([f"{self.buckets} buckets", f"{self.elapsed_ms:.1f} ms", *wrong])


@action("s3.buckets")
def buckets(s3: S3, deadline: Deadline) -> Buckets:
    """The buckets that this user sees; an empty store is an answer."""
    found = document(s3, ask(s3, deadline, place(), doing="list the buckets"))
    if found.tag != "ListAllMyBucketsResult":
        raise Refused(
            f"{s3.endpoint} does not answer like an S3 store: {found.tag}", hint="see connections.s3.endpoint"
        )
    shown = [
        Bucket(name=each.findtext("Name", ""), created=each.findtext("CreationDate", ""))
        for each in found.iter("Bucket")
    ]
    return Buckets(names=[each.name for each in shown], count=len(shown), buckets=shown, source=s3.source)


@action("s3.create_bucket", effect=Effect.CHANGES, blast=Blast.DATA)
def create_bucket(s3: S3, deadline: Deadline, bucket: str) -> Buckets:
    """Make a bucket; one that is there already is fine.

    Args:
        bucket: Its name.
    """
    if bucket not in (known := buckets(s3, deadline)).names:
        ask(s3, deadline, place(bucket), method="PUT", doing=f"create the bucket {bucket!r}")
        return buckets(s3, deadline)
    return known


@action("s3.list")
def list_(s3: S3, deadline: Deadline, bucket: str, prefix: str = "", limit: int = 20) -> Objects:
    """The objects of a bucket: how many, how large, how fresh; no bucket is unknown, an empty one is an answer.

    Args:
        bucket: Its name.
        prefix: Only objects whose key starts so.
        limit: How many to show at most; all are counted.
    """
    count = total = 0
    newest, shown = "", []
    for page in pages(s3, deadline, bucket, prefix):
        for each in page:
            count, total = count + 1, total + int(each.findtext("Size", "0"))
            changed = each.findtext("LastModified", "")
            newest = max(newest, changed)
            if count <= limit:
                size = int(each.findtext("Size", "0"))
                shown.append(Object(key=each.findtext("Key", ""), bytes=size, changed=changed))
    return Objects(
        bucket=bucket,
        prefix=prefix,
        count=count,
        bytes=total,
        newest_age_s=(datetime.now(UTC) - datetime.fromisoformat(newest)).total_seconds() if newest else None,
        objects=shown,
        source=s3.source,
    )


@action("s3.put", effect=Effect.CHANGES, blast=Blast.DATA)
def put(s3: S3, deadline: Deadline, bucket: str, key: str, text: str = "", file: str = "") -> Stored:
    """Write an object; one that is there is replaced.

    Args:
        bucket: Name of the bucket; it must be there.
        key: Name of the object.
        text: Its content.
        file: Instead of `text`: a file with the content; `~` is the home directory.
    """
    if text and file:
        raise AuthorError("s3.put takes either text or a file")
    content = _read(file) if file else text.encode()
    doing = f"write {bucket}/{key}"
    ask(s3, deadline, place(bucket, key), method="PUT", content=content, doing=doing)
    return Stored(bucket=bucket, key=key, bytes=len(content), sha256=_digest(content), source=s3.source)


@action("s3.get")
def get(s3: S3, deadline: Deadline, bucket: str, key: str, file: str = "") -> Stored:
    """Read an object of up to 64 MiB; none is unknown.

    Args:
        bucket: Name of the bucket.
        key: Name of the object.
        file: Where to save it, if anywhere; `~` is the home directory.
    """
    answer = ask(s3, deadline, place(bucket, key), doing=f"read {bucket}/{key}")
    if file:
        _write(file, answer.content)
    short = answer.content[: LARGEST_IN_JOURNAL + 1]
    return Stored(
        bucket=bucket,
        key=key,
        bytes=len(answer.content),
        sha256=_digest(answer.content),
        text=_text(short) if len(short) <= LARGEST_IN_JOURNAL else "",
        source=s3.source,
    )


@action("s3.delete", effect=Effect.DESTROYS)
def delete(s3: S3, deadline: Deadline, bucket: str, key: str, missing_ok: bool = False) -> Deleted:
    """Delete an object.

    Args:
        bucket: Name of the bucket.
        key: Name of the object.
        missing_ok: Whether it is fine when there is none.
    """
    where = place(bucket, key)
    try:
        ask(s3, deadline, where, method="HEAD", doing=f"inspect {bucket}/{key}")
    except Unknown:
        if missing_ok:
            return Deleted(bucket=bucket, key=key, deleted=False, source=s3.source)
        raise
    ask(s3, deadline, where, method="DELETE", doing=f"delete {bucket}/{key}")
    return Deleted(bucket=bucket, key=key, deleted=True, source=s3.source)


class Hidden(Result, frozen=True, kw_only=True):
    """An object is not where it was; `kept` is the key under which it is meanwhile."""

    bucket: str
    key: str
    kept: str
    bytes: int


class Returned(Result, frozen=True, kw_only=True):
    """An object is where it belongs; `changed` is whether it was not before."""

    bucket: str
    key: str
    changed: bool


@fault("s3.hide", blast=Blast.DATA, undone_by="s3.put_back")
def hide(s3: S3, deadline: Deadline, location: str) -> Striking[Hidden]:
    """Take an object away, as if the store had lost it. Undone by putting it back.

    Blast radius: everything that reads the object.

    Args:
        location: `s3://BUCKET/KEY`.

    Raises:
        Unknown: There is no such object.
        Refused: It is hidden already.
    """
    bucket, key = _split(location)
    kept = key + KEPT
    if _is_there(s3, deadline, bucket, kept):
        raise Refused(f"{location} is put aside already", hint=f"s3.put_back: {{location: {location}}}")
    content = ask(s3, deadline, place(bucket, key), doing=f"read {bucket}/{key}").content
    yield Undo(action="s3.put_back", args={"location": location}, says=f"put back {location}")
    ask(s3, deadline, place(bucket, kept), method="PUT", content=content, doing=f"write {bucket}/{kept}")
    ask(s3, deadline, place(bucket, key), method="DELETE", doing=f"delete {bucket}/{key}")
    return Hidden(bucket=bucket, key=key, kept=kept, bytes=len(content), source=s3.source)


@action("s3.put_back", effect=Effect.CHANGES, blast=Blast.DATA)
def put_back(s3: S3, deadline: Deadline, location: str) -> Returned:
    """Put back an object that was hidden; nothing happens when it was not.

    Args:
        location: `s3://BUCKET/KEY`.

    Raises:
        Unknown: It is neither in its place nor beside it.
    """
    bucket, key = _split(location)
    kept = key + KEPT
    if not _is_there(s3, deadline, bucket, kept):
        if not _is_there(s3, deadline, bucket, key):
            raise Unknown(f"neither {location} nor {kept} is there", hint="bring it back from a copy of your own")
        return Returned(bucket=bucket, key=key, changed=False, source=s3.source)
    content = ask(s3, deadline, place(bucket, kept), doing=f"read {bucket}/{kept}").content
    ask(s3, deadline, place(bucket, key), method="PUT", content=content, doing=f"write {bucket}/{key}")
    ask(s3, deadline, place(bucket, kept), method="DELETE", doing=f"delete {bucket}/{kept}")
    return Returned(bucket=bucket, key=key, changed=True, source=s3.source)


def _split(location: str) -> tuple[str, str]:
    """Bucket and key of a location."""
    scheme, _, rest = location.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme not in {"s3", "s3a", "s3n"} or not bucket or not key:
        raise AuthorError(f"{location!r} is no object of an S3 store", hint="expected: s3://BUCKET/KEY")
    return bucket, key


def _is_there(s3: S3, deadline: Deadline, bucket: str, key: str) -> bool:
    try:
        ask(s3, deadline, place(bucket, key), method="HEAD", doing=f"look at {bucket}/{key}")
    except Unknown:
        return False
    return True


@action("s3.health")
def health(s3: S3, deadline: Deadline) -> Health:
    """The store lets this user list the buckets, and what MinIO's own probes say; an open port alone is not enough."""
    started = time.perf_counter()
    count = buckets(s3, deadline).count
    elapsed_ms = (time.perf_counter() - started) * 1000
    return Health(
        live=_probe(s3, deadline, "live"),
        ready=_probe(s3, deadline, "cluster"),
        buckets=count,
        elapsed_ms=elapsed_ms,
        source=s3.source,
    )


def _probe(s3: S3, deadline: Deadline, what: str) -> bool | None:
    url = f"{s3.endpoint.rstrip('/')}/minio/health/{what}"
    status = send(Request(url=url, tls=s3.tls), deadline).status
    return {200: True, 503: False}.get(status)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ""


def _read(file: str) -> bytes:
    path = Path(file).expanduser().absolute()
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Unknown(f"{path} does not exist") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error


def _write(file: str, content: bytes) -> None:
    path = Path(file).expanduser().absolute()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}") from error
