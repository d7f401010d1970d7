from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import file
from k2run.errors import Refused, TimedOut, Unknown
from k2run.language.json_schema import JsonSchema

TESTED_ON = {"file": "the file system; ffmpeg and ffprobe"}


def test_something_that_is_there_has_a_kind_a_size_and_an_age(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    seen = file.exists(str(tmp_path / "a.txt"))
    assert (seen.kind, seen.bytes) == ("file", 5)
    assert 0 <= seen.age_s < 60
    assert file.exists(str(tmp_path), kind="directory").bytes is None


def test_what_is_not_there_is_unknown_for_every_action(tmp_path):
    missing = str(tmp_path / "missing")
    for look in (
        lambda: file.exists(missing),
        lambda: file.age(missing),
        lambda: file.size(Deadline(5), missing),
        lambda: file.lines(Deadline(5), missing),
        lambda: file.hash(Deadline(5), missing),
        lambda: file.json(Deadline(5), missing),
    ):
        with pytest.raises(Unknown, match="missing"):
            look()


def test_a_directory_where_a_file_should_be_is_refused(tmp_path):
    with pytest.raises(Refused, match="not a file"):
        file.exists(str(tmp_path), kind="file")
    with pytest.raises(Refused, match="cannot be read"):
        file.lines(Deadline(5), str(tmp_path))


def test_an_age_counts_from_the_last_change(tmp_path):
    old = tmp_path / "old"
    old.write_text("x")
    os.utime(old, (time.time(), time.time() - 7200))
    result = file.age(str(old))
    assert result.age_s == pytest.approx(7200, abs=5)
    assert result.headline() == "2.0 h old"


def test_the_size_of_a_directory_is_that_of_its_files(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "below" / "b").write_bytes(b"x" * 32)
    result = file.size(Deadline(5), str(tmp_path))
    assert (result.bytes, result.files) == (42, 2)


@pytest.mark.parametrize(("text", "count"), [("", 0), ("one", 1), ("one\n", 1), ("one\ntwo", 2), ("\n\n", 2)])
def test_lines_are_counted_with_or_without_the_last_break(tmp_path, text, count):
    (tmp_path / "t").write_text(text)
    assert file.lines(Deadline(5), str(tmp_path / "t")).lines == count


def test_a_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "t").write_bytes(b"k2" * 1_000_000)
    assert file.hash(Deadline(5), str(tmp_path / "t")).digest == hashlib.sha256(b"k2" * 1_000_000).hexdigest()


def test_json_is_read_and_what_is_not_json_is_refused(tmp_path):
    (tmp_path / "good.json").write_text('{"score": 97, "bands": [1, 2]}')
    (tmp_path / "bad.json").write_text("{score}")
    assert file.json(Deadline(5), str(tmp_path / "good.json")).content == {"score": 97, "bands": [1, 2]}
    with pytest.raises(Refused, match="not JSON"):
        file.json(Deadline(5), str(tmp_path / "bad.json"))


def test_hashing_stops_at_the_deadline(tmp_path):
    with (tmp_path / "large").open("wb") as large:
        large.truncate(20 * 2**30)
    started = time.monotonic()
    with pytest.raises(TimedOut):
        file.hash(Deadline(0.2), str(tmp_path / "large"))
    assert time.monotonic() - started < 0.7


def test_a_json_or_yaml_document_conforms_to_a_schema_or_every_violation_is_told(tmp_path):
    schema = JsonSchema.parse({"required": ["id"], "properties": {"ports": {"items": {"maximum": 65535}}}})
    (tmp_path / "good.yaml").write_text("id: 7\nports: [80]\nsince: 2024-01-01\n")
    assert file.yaml(Deadline(5), str(tmp_path / "good.yaml"), schema).content["since"] == "2024-01-01"
    (tmp_path / "bad.yaml").write_text("ports: [80, 70000]\n")
    with pytest.raises(Refused, match=r"2 violations: \$: lacks `id`; \$\.ports\[1\]: is 70000, more than 65535"):
        file.yaml(Deadline(5), str(tmp_path / "bad.yaml"), schema)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(Refused, match=r"bad\.json does not conform to the schema, 1 violation: \$: lacks `id`"):
        file.json(Deadline(5), str(tmp_path / "bad.json"), schema)


def test_what_is_not_yaml_is_refused_with_the_place(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2\n")
    with pytest.raises(Refused, match=r"not YAML: .*broken\.yaml:1:4"):
        file.yaml(Deadline(5), str(tmp_path / "broken.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9\n")
    with pytest.raises(Refused, match="byte 0xe9 at line 1, column 7"):
        file.yaml(Deadline(5), str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize(("ending", "name"), [("png", "png"), ("jpg", "jpeg"), ("gif", "gif"), ("webp", "webp")])
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed (Debian: ffmpeg)")
def test_a_picture_tells_its_format_and_size(tmp_path, ending, name):
    path = tmp_path / f"shot.{ending}"
    _make("-f", "lavfi", "-i", "testsrc=size=322x180", "-frames:v", "1", path)
    found = file.image(Deadline(5), str(path))
    assert (found.format, found.width, found.height) == (name, 322, 180)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed (Debian: ffmpeg)")
def test_a_video_tells_its_length_size_and_sound(tmp_path):
    mute, loud = tmp_path / "mute.mp4", tmp_path / "loud.mp4"
    picture = ("-f", "lavfi", "-i", "testsrc=size=320x180:duration=2:rate=10")
    _make(*picture, mute)
    _make(*picture, "-f", "lavfi", "-i", "sine=duration=2", "-shortest", loud)
    found = file.video(Deadline(10), str(mute))
    assert (found.width, found.height, found.audio) == (320, 180, False)
    assert found.seconds == pytest.approx(2, abs=0.1)
    assert file.video(Deadline(10), str(loud)).audio


def test_what_is_neither_a_picture_nor_a_video_is_refused(tmp_path):
    path = tmp_path / "shot.png"
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0"):
        path.write_bytes(content)
        with pytest.raises(Refused, match="not a picture"):
            file.image(Deadline(5), str(path))
    path = tmp_path / "talk.mp4"
    path.write_text("hello")
    if shutil.which("ffprobe"):
        with pytest.raises(Refused, match="not a video"):
            file.video(Deadline(5), str(path))


def _make(*arguments: object) -> None:
    subprocess.run(["ffmpeg", "-y", "-loglevel", "error", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)
