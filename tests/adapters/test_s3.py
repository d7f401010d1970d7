"""The s3 actions against SeaweedFS and moto's server, which check every signature; the slow ones against MinIO."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

import pytest
from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.adapters import s3 as actions
from k2run.adapters.s3 import S3, signed
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable

TESTED_ON = {
    "s3": (
        "moto's server, which checks every signature; MinIO where it was built; AWS's published example of a signature"
    )
}


def soon(seconds: float = 10) -> Deadline:
    return Deadline(seconds)


@pytest.fixture(
    params=["store", "weed", pytest.param("minio", marks=pytest.mark.slow)], ids=["moto", "seaweedfs", "minio"]
)
def s3(request: pytest.FixtureRequest) -> S3:
    store = request.getfixturevalue(request.param)
    return S3(endpoint=store.endpoint, access_key=store.access_key, secret_key=store.secret_key)


@pytest.fixture
def bucket(s3) -> str:
    name = f"b-{uuid.uuid4().hex[:8]}"
    actions.create_bucket(s3, soon(), name)
    return name


def test_a_signature_is_the_one_of_the_documentation():
    # "GET Bucket Lifecycle", an example of the page that _s3.py names.
    known = S3(
        endpoint="https://examplebucket.s3.amazonaws.com",
        access_key="AKIAIOSFODNN7EXAMPLE",
        secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    )
    headers = signed(known, "GET", "/", "lifecycle=", b"", datetime(2013, 5, 24, tzinfo=UTC))
    assert headers["Authorization"].endswith("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")


def test_an_object_goes_in_comes_back_and_is_deleted(s3, bucket, tmp_path):
    put = actions.put(s3, soon(), bucket, "market data/Ünïcode+&=.txt", text="probe: ✓")
    got = actions.get(s3, soon(), bucket, "market data/Ünïcode+&=.txt", file=str(tmp_path / "copy"))
    assert got.text == "probe: ✓"
    assert got.sha256 == put.sha256
    assert (tmp_path / "copy").read_text() == "probe: ✓"
    assert actions.delete(s3, soon(), bucket, put.key).deleted
    assert not actions.delete(s3, soon(), bucket, put.key, missing_ok=True).deleted
    with pytest.raises(Unknown, match="no such object"):
        actions.get(s3, soon(), bucket, put.key)
    with pytest.raises(Unknown, match="no such object"):
        actions.delete(s3, soon(), bucket, put.key)


def test_a_file_that_is_no_text_goes_in_and_comes_back(s3, bucket, tmp_path):
    (tmp_path / "in").write_bytes(bytes(range(256)) * 1000)
    actions.put(s3, soon(), bucket, "bytes", file=str(tmp_path / "in"))
    got = actions.get(s3, soon(), bucket, "bytes", file=str(tmp_path / "out"))
    assert (got.bytes, got.text) == (256_000, "")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    with pytest.raises(Unknown, match="does not exist"):
        actions.put(s3, soon(), bucket, "bytes", file=str(tmp_path / "missing"))
    with pytest.raises(AuthorError, match="either"):
        actions.put(s3, soon(), bucket, "bytes", text="a", file="b")


def test_buckets_and_objects_are_listed_and_counted_over_several_pages(s3, bucket):
    assert bucket in actions.buckets(s3, soon()).names
    assert actions.list_(s3, soon(), bucket).count == 0
    for number in range(23):
        actions.put(s3, soon(), bucket, f"data/{number:04}", text="12345")
    found = actions.list_(s3, soon(), bucket, prefix="data/", limit=2)
    assert (found.count, found.bytes) == (23, 115)
    assert [each.key for each in found.objects] == ["data/0000", "data/0001"]
    assert -2 < found.newest_age_s < 60
    assert actions.list_(s3, soon(), bucket, prefix="other/").newest_age_s is None
    with pytest.raises(Unknown, match="no such bucket"):
        actions.list_(s3, soon(), f"{bucket}x")


def test_a_store_that_lists_its_buckets_is_healthy_and_minios_probes_are_told_where_there_are_any(request, s3, bucket):
    found = actions.health(s3, soon())
    assert found.buckets >= 1
    expected = True if "minio" in request.node.callspec.id else None
    assert (found.live, found.ready) == (expected, expected)


def test_a_minio_without_a_write_quorum_is_told(web):
    s3 = S3(endpoint=web.url, access_key="a", secret_key="b")
    web.page("/", "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>")
    web.page("/minio/health/live", "")
    web.page("/minio/health/cluster", "", status=503)
    found = actions.health(s3, soon())
    assert (found.live, found.ready) == (True, False)
    assert "no write quorum" in found.headline()


def test_a_wrong_key_a_wrong_secret_a_closed_port_garbage_and_silence_each_say_what_to_look_at(
    s3, bucket, speaker, web
):
    for wrong in ({"secret_key": "x" * 40}, {"access_key": "AKIAWRONG"}):
        with pytest.raises(Refused, match=r"connections\.s3"):
            actions.buckets(structs.replace(s3, **wrong), soon())
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1.*connections\.s3"):
        actions.buckets(structs.replace(s3, endpoint="http://127.0.0.1:1"), soon())
    for page in ("hello", "<html></html>"):
        web.page("/", page)
        with pytest.raises(Refused, match="does not answer like an S3 store"):
            actions.buckets(structs.replace(s3, endpoint=web.url), soon())
    web.page("/", "<Error><Code>SlowDown</Code><Message>busy</Message></Error>", status=503)
    with pytest.raises(Unreachable, match="503"):
        actions.buckets(structs.replace(s3, endpoint=web.url), soon())
    silent, started = speaker(lambda _: time.sleep(30)), time.monotonic()
    with pytest.raises(TimedOut, match="has not answered"):
        actions.health(structs.replace(s3, endpoint=silent), soon(0.5))
    assert time.monotonic() - started < 1.0
