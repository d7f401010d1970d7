"""An S3 store: where it is, and requests signed by AWS Signature Version 4.

Why no library: pyarrow.fs takes an HTML page for an empty store, lists no keys by prefix and tells no dates of buckets;
minio brings 16 MB of pycryptodome and 0.2 s of imports, boto3 more.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree as ET

from k2run.actions.action import beginning
from k2run.actions.connection import Connection
from k2run.adapters.http.client import Answer, Request, send
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls
from k2run.errors import ActionError, Refused, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from k2run.actions.deadline import Deadline

_ALGORITHM = "AWS4-HMAC-SHA256"
_SETTING = "see connections.s3 in the stack file"
_KEPT = "-._~"
"""What S3's canonical form leaves as it is, beside letters and digits."""
_ABSENT = {"NoSuchBucket": "bucket", "NoSuchKey": "object", "NoSuchUpload": "upload"}
_ENTRY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "RequestTimeTooSkewed", "InvalidToken"}


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

    Args:
        s3: Where.
        deadline: Of the step.
        path: Of `place`.
        method: HTTP method.
        query: Parameters.
        content: Body.
        doing: What is asked, for the message of an error: "list the bucket 'warehouse'".

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

    Args:
        s3: Whose credentials.
        method: HTTP method.
        path: Percent-encoded.
        query: Percent-encoded and sorted.
        content: Body.
        now: UTC; stores refuse requests that are more than a quarter of an hour off.
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
