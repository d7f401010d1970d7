"""The browser actions with the system's Chromium, on pages of a real web server."""

from __future__ import annotations

import shutil
import socket
import threading
import time

import msgspec
import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import file
from k2run.adapters.browser import actions as browser
from k2run.adapters.browser.client import PROGRAMS, Scene, captions
from k2run.errors import Interrupted, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration

TESTED_ON = {"browser": "Debian's Chromium through Playwright; ffmpeg"}

pytest.importorskip("playwright", reason="the extra k2run[browser] is not installed")
pytestmark = [
    pytest.mark.skipif(not any(map(shutil.which, PROGRAMS)), reason="Chromium is not installed (Debian: chromium)"),
    pytest.mark.xdist_group("browser"),
]

PAGE = """<title>K2</title><body style="height: 3000px"><h1>Market data</h1><p id=late></p>
<script>setTimeout(() => late.textContent = "GO after all", 400); console.error("no feed"); missing()</script>"""
MOVING = """<title>K2</title><h1 id=n>0</h1>
<script>let i = 0; setInterval(() => { n.textContent = ++i }, 50)</script>"""


def browsers() -> list[int]:
    return [p.pid for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]


def test_a_page_is_read_as_a_person_sees_it_also_what_comes_late(web, services):
    url = web.page("/", PAGE, Content_Type="text/html")
    found = browser.open_(services(""), Deadline(40), url=url, text=["Market data", "GO after all"])
    assert (found.status, found.title) == (200, "K2")
    assert "GO after all" in found.text
    assert any("no feed" in complaint for complaint in found.complaints)
    assert any("missing is not defined" in complaint for complaint in found.complaints)
    stack = services(f"ui: {{url: '{web.url}', headers: {{X-Key: k}}}}")
    with pytest.raises(Refused, match=r"does not show 'NO-GO' within 0\.3s; it shows: Market data"):
        browser.open_(stack, Deadline(40), service="ui", path="/", text=["NO-GO"], within=Duration(0.3))
    assert any(headers.get("X-Key") == "k" for _, _, headers, _ in web.asked)
    assert browsers() == []


TWICE = """<title>K2</title><p style="display: none">BTCUSDT, on a page that is not shown</p><p>BTCUSDT, 5 trades</p>"""


def test_a_text_is_seen_where_it_is_shown_though_it_also_stands_where_it_is_not(web, services):
    url = web.page("/", TWICE, Content_Type="text/html")
    assert browser.open_(services(""), Deadline(40), url=url, text=["BTCUSDT"]).text == "BTCUSDT, 5 trades"


def test_a_picture_has_the_size_that_was_asked_for(web, services, tmp_path):
    url = web.page("/", PAGE, Content_Type="text/html")
    target = tmp_path / "shots" / "01.png"
    found = browser.screenshot(services(""), Deadline(40), file=str(target), url=url, text=["GO after all"])
    assert (found.width, found.height, found.bytes) == (1920, 1080, target.stat().st_size)
    assert file.image(Deadline(5), str(target)).width == 1920
    whole = browser.screenshot(
        services(""), Deadline(40), file=str(target), url=url, width=800, height=600, full_page=True
    )
    assert whole.width == 800
    assert whole.height >= 3000


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed (Debian: ffmpeg)")
def test_a_video_shows_what_moves_and_lasts_as_long_as_it_was_recorded(web, services, tmp_path):
    url = web.page("/", MOVING, Content_Type="text/html")
    target = tmp_path / "demo.webm"
    found = browser.record(
        services(""), Deadline(60), file=str(target), url=url, seconds=Duration(2), width=640, height=360
    )
    assert found.frames > 5
    seen = file.video(Deadline(10), str(target))
    assert (seen.width, seen.height) == (640, 360)
    assert seen.seconds == pytest.approx(2, abs=0.5)


@pytest.mark.slow  # it waits twelve seconds
def test_a_page_that_is_not_there_and_one_that_never_comes_are_told_and_leave_no_browser(web, services, speaker):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
        browser.open_(services(""), Deadline(40), url=f"http://127.0.0.1:{port}")
    with pytest.raises(Refused, match="answered 404"):
        browser.open_(services(""), Deadline(40), url=f"{web.url}/missing")
    silent = speaker(lambda _: time.sleep(60))
    started = time.monotonic()
    with pytest.raises(TimedOut, match="did not finish loading within 6s"):
        browser.open_(services(""), Deadline(6), url=silent)
    assert time.monotonic() - started < 6.5
    deadline = Deadline(60)
    threading.Timer(4, deadline.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        browser.open_(services(""), deadline, url=silent)
    assert time.monotonic() - started < 4.5
    end = time.monotonic() + 3
    while browsers() and time.monotonic() < end:
        time.sleep(0.1)
    assert browsers() == []
    with pytest.raises(Unknown):
        file.image(Deadline(1), "/nowhere.png")


SMALL = """<title>K2</title><body style="font: 30px sans-serif; margin: 0">Large enough
<svg viewBox="0 0 100 50" width="800" height="400"><text y="20" style="font-size: 2px">in a drawing</text></svg>
<p style="display: none; font-size: 5px">not shown</p><p style="margin-top: 3000px; font-size: 6px">below</p>"""


def test_the_smallest_letters_in_view_are_measured_as_they_are_drawn(web, services, tmp_path):
    url = web.page("/", SMALL, Content_Type="text/html")
    target = str(tmp_path / "01.png")
    found = browser.screenshot(services(""), Deadline(40), file=target, url=url)
    assert found.smallest_px == 16  # two units of a drawing that is eight times as large as its units
    assert found.letters == len("Large enough") + len("in a drawing")
    assert found.ink > 0.0005
    with pytest.raises(Refused, match=r"has letters of 16 px, below 28: 'in a drawing'"):
        browser.screenshot(services(""), Deadline(40), file=target, url=url, letters_px=28)


def test_a_blank_page_has_no_ink_and_no_letters(web, services, tmp_path):
    url = web.page("/", "<title>K2</title><body style='background: #fdfdfd'>", Content_Type="text/html")
    found = browser.screenshot(services(""), Deadline(40), file=str(tmp_path / "01.png"), url=url)
    assert (found.ink < 0.001, found.letters, found.smallest_px) == (True, 0, None)


SCENES = [
    Scene(chapter="1 Begin", url="", seconds=2.0, caption="First --> words", note="now"),
    Scene(chapter="1 Begin", url="", seconds=1.5, caption="First --> words", note="now"),
    Scene(chapter="2 End; = #", url="", seconds=1.5, caption="Last <b>", note="then"),
]


def test_captions_follow_the_scenes():
    assert captions(SCENES).splitlines() == [
        *["WEBVTT", "", "00:00:00.000 --> 00:00:03.500", "First → words", ""],
        *["00:00:03.500 --> 00:00:05.000", "Last <b>"],
    ]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed (Debian: ffmpeg)")
def test_a_film_has_a_chapter_for_each_part_and_lasts_as_long_as_its_scenes(web, tmp_path):
    url = web.page("/", PAGE, Content_Type="text/html")
    scenes, target = tmp_path / "scenes.json", tmp_path / "film.mp4"
    scenes.write_bytes(msgspec.json.encode([msgspec.structs.replace(scene, url=url) for scene in SCENES]))
    made = browser.film(Deadline(120), scenes=str(scenes), file=str(target))
    assert (made.scenes, made.seconds, made.chapters) == (3, 5.0, ["1 Begin", "2 End; = #"])
    seen = file.video(Deadline(10), str(target))
    assert (seen.width, seen.height, seen.chapters) == (1920, 1080, made.chapters)
    assert seen.seconds == pytest.approx(5, abs=0.5)
    assert (tmp_path / "film.vtt").read_text().startswith("WEBVTT")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed (Debian: ffmpeg)")
def test_a_film_of_a_page_with_small_letters_is_refused(web, tmp_path):
    url = web.page("/", SMALL, Content_Type="text/html")
    scenes = tmp_path / "scenes.json"
    scenes.write_bytes(msgspec.json.encode([msgspec.structs.replace(SCENES[0], url=url)]))
    with pytest.raises(Refused, match=r"has letters of 16 px, below 28: 'in a drawing'"):
        browser.film(Deadline(60), scenes=str(scenes), file=str(tmp_path / "film.mp4"), letters_px=28)
    made = browser.film(Deadline(60), scenes=str(scenes), file=str(tmp_path / "film.mp4"), letters_px=16)
    assert made.smallest_px == 16


def test_without_scenes_there_is_no_film(tmp_path):
    (tmp_path / "scenes.json").write_text("[]")
    with pytest.raises(Refused, match="holds no scenes"):
        browser.film(Deadline(5), scenes=str(tmp_path / "scenes.json"), file=str(tmp_path / "film.mp4"))
