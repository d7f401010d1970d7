"""The whole path in a real Chromium: start, answer, watch the chart, abort, see the undo, read the report."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
pytestmark = pytest.mark.slow
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, which is not a part of k2run."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, and axe-core comes from it")
    folder = tmp_path_factory.mktemp("axe")
    fetched = subprocess.run(
        ["npm", "pack", "axe-core@4", "--silent"], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    if fetched.returncode:
        pytest.skip(f"axe-core cannot be fetched: {fetched.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


class Window:
    """A page that remembers what its console said."""

    def __init__(self, browser: Any, **more: Any) -> None:
        self.context = browser.new_context(**more)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def sign_in(self, served: Any) -> None:
        self.page.goto(f"{served.address}/enter#{served.token}")
        self.page.wait_for_url(f"{served.address}/")
        assert served.token not in self.page.url

    def violations(self, axe: str) -> list[str]:
        found = self.page.evaluate(
            "([source, rules]) => { (0, eval)(source); return axe.run({runOnly: rules}) }", [axe, RULES]
        )
        assert len(found["passes"]) > 10, "axe has looked"
        return [f"{each['id']}: {each['nodes'][0]['html'][:160]}" for each in found["violations"]]


@pytest.fixture
def window(chromium: Any, served: Any) -> Iterator[Window]:
    made = Window(chromium, **DESKTOP)
    made.sign_in(served)
    yield made
    made.context.close()
    served.end_all()


def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: a folder that stays, when one is named."""
    return tmp_path if "K2RUN_SCREENSHOTS" not in os.environ else type(tmp_path)(os.environ["K2RUN_SCREENSHOTS"])


def test_the_whole_path_with_the_keyboard_and_a_phone_beside_it(window, chromium, served, tmp_path):
    page, kept = window.page, pictures(tmp_path)
    page.get_by_role("link", name="A sleeper is held").click()
    page.get_by_label("level").fill("6")
    page.screenshot(path=kept / "start.png")
    page.get_by_role("button", name="Start the run").press("Enter")
    page.wait_for_url("**/runs/2*")
    phone = Window(chromium, **PHONE, color_scheme="dark", storage_state=window.context.storage_state())
    phone.page.goto(page.url + "/oncall")

    page.locator(".question", has_text="Notifications are off & the <b>room</b> is ready").wait_for()
    page.screenshot(path=kept / "question.png")
    phone.page.screenshot(path=kept / "question-phone.png")
    phone.page.get_by_role("button", name="yes").tap()
    page.locator("#p-charts svg.chart path").wait_for()
    page.get_by_text("! active").wait_for()
    before = page.locator("#p-charts path").get_attribute("d")
    page.wait_for_function(
        "before => document.querySelector('#p-charts path').getAttribute('d') !== before", arg=before
    )
    page.locator(".step.live", has_text="Wait for an operator").wait_for()
    page.screenshot(path=kept / "chart.png")

    page.locator("#abort summary").press("Enter")
    page.get_by_role("button", name="Abort and undo all faults").press("Enter")
    page.locator("#p-state .word", has_text="INTERRUPTED").wait_for()
    page.get_by_text("✓ undone").wait_for()
    phone.page.locator(".final .word", has_text="INTERRUPTED").wait_for()
    page.screenshot(path=kept / "aborted.png")
    phone.page.screenshot(path=kept / "aborted-phone.png")
    page.get_by_role("link", name="Read the report").click()
    page.get_by_role("heading", name="Faults and undos").wait_for()
    page.screenshot(path=kept / "report.png")
    phone.context.close()
    assert window.complaints == []
    assert phone.complaints == []


def test_no_page_has_an_accessibility_violation(window, chromium, served, axe):
    run = served.start_run("scenario", stack="sleepers", **{"input.level": "2"})
    served.wait_for(run, lambda event: type(event).__name__ == "Asked")
    kept = window.context.storage_state()
    dark = Window(chromium, **PHONE, color_scheme="dark", storage_state=kept, bypass_csp=True)
    light = Window(chromium, **DESKTOP, storage_state=kept, bypass_csp=True)
    found: dict[str, list[str]] = {}

    def look(at: Window, path: str, stage: str = "") -> None:
        at.page.goto(served.address + path)
        found[f"{path} {stage}"] = at.violations(axe)

    for path in ("/", "/runs", "/runbooks/scenario", "/enter", "/trends", "/diagnosis/sleepers"):
        look(light, path)
    look(light, f"/runs/{run}", "asked, light")
    look(dark, f"/runs/{run}", "asked, dark")
    look(dark, f"/runs/{run}/oncall", "asked")
    look(light, f"/runs/{run}/presenter", "asked")
    served.end_all()  # an alert during a scenario of ours starts nothing and asks no operator
    failed = served.alert("Broken", key="axe", note="two")
    held = served.alert("Held", key="axe, approval", note="one")
    served.wait_for_incident(held, lambda one: one.waits_for_approval)
    look(dark, "/incidents", "open")
    look(light, f"/incidents/{held}", "approval needed, light")
    look(dark, f"/incidents/{held}", "approval needed, dark")
    served.wait_for_incident(failed, lambda one: one.ended is not None, 90)
    look(light, f"/incidents/{failed}", "not recovered, light")
    look(dark, f"/incidents/{failed}", "not recovered, dark")
    for key, alertname, note in (("axe", "Broken", "two"), ("axe, approval", "Held", "one")):
        served.alert(alertname, key=key, status="resolved", note=note)
    look(light, f"/incidents/{failed}", "closed")
    look(light, "/incidents", "closed")
    look(light, f"/runs/{run}", "ended")
    look(dark, f"/runs/{run}/oncall", "ended")
    look(dark, f"/runs/{run}/report", "ended")
    dark.context.close()
    light.context.close()
    assert {where: what for where, what in found.items() if what} == {}


def test_a_typed_answer_and_opened_evidence_survive_what_happens_meanwhile(window, served):
    run = served.start_run("talk", stack="none")
    page = window.page
    page.goto(f"{served.address}/runs/{run}")
    page.get_by_label("Your answer").fill("half a sen")
    page.locator("summary.line").first.click()
    page.locator(".step.good", has_text="Turn 5").wait_for()
    assert page.get_by_label("Your answer").input_value() == "half a sen"
    assert page.locator("details[open] .evidence").first.is_visible()
    page.get_by_label("Your answer").press("End")
    page.get_by_label("Your answer").type("tence")
    page.get_by_label("Your answer").press("Enter")
    page.locator("#p-state .word", has_text="PASSED").wait_for()
    given = next(event for event in served.events(run) if type(event).__name__ == "Answered")
    assert given.answer == "half a sentence"
    assert window.complaints == []


def test_a_presenter_sees_what_is_to_be_said_however_many_sections_there_are(window, served):
    sections = "".join(f"  - {{name: Section {number}, steps: [assert: {{that: 1 < 2}}]}}\n" for number in range(12))
    note = "  - {name: Say it, steps: [{name: Say, manual.note: {text: This is said}, timeout: 120s}]}\n"
    head = "runbook: 1\nkind: rehearsal\nname: long\ntitle: A long evening\nstack: none\nsections:\n"
    (served.folder / "runbooks" / "long.yaml").write_text(f"{head}{sections}{note}{sections.replace('Section', 'Act')}")
    run = served.start_run("long", stack="none")
    window.page.goto(f"{served.address}/runs/{run}/presenter")
    said = window.page.locator(".question", has_text="This is said")
    for width, height in ((1280, 720), (1920, 1080)):
        window.page.set_viewport_size({"width": width, "height": height})
        said.wait_for()
        for seen in (said, window.page.get_by_role("button", name="ok")):
            box = seen.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= height
        window.page.screenshot(path=pictures(served.folder) / f"presenter-{height}.png")
    window.page.get_by_role("button", name="ok").click()
    window.page.locator(".final .word", has_text="PASSED").wait_for()
    assert window.complaints == []


def test_an_open_page_comes_back_by_itself_after_the_server_was_killed(chromium, lay_out, tmp_path):
    served = lay_out(tmp_path)
    served.start()
    try:
        window = Window(chromium, **DESKTOP)
        window.sign_in(served)
        run = served.start_run("scenario", stack="sleepers", **{"input.level": "2"})
        window.page.goto(f"{served.address}/runs/{run}")
        window.page.locator("#link.on").wait_for()
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait(5)
        window.page.locator("#link.off").wait_for()
        time.sleep(0.5)
        served.start()
        window.page.locator("#link.on").wait_for(timeout=20_000)
        window.page.get_by_role("button", name="yes").click()
        window.page.locator(".step.live", has_text="Wait for an operator").wait_for(timeout=20_000)
        window.page.locator("#abort summary").click()
        window.page.get_by_role("button", name="Abort and undo all faults").click()
        window.page.locator("#p-state .word", has_text="INTERRUPTED").wait_for()
        window.context.close()
    finally:
        served.stop()


def test_a_private_page_that_is_open_leads_to_signing_in_when_its_session_ends(
    chromium: Any, lay_out: Any, tmp_path: Path
) -> None:
    """And the link to sign in works where the form is shown already."""
    served = lay_out(tmp_path)
    served.start("--private")
    try:
        run = served.start_run("short", stack="none")
        served.ended(run)
        window = Window(chromium, **DESKTOP)
        window.sign_in(served)
        window.page.goto(f"{served.address}/runs/{run}")
        window.page.locator("#link.on").wait_for()
        other = window.context.new_page()
        other.goto(f"{served.address}/")
        other.locator("form[action='/leave'] button").first.click()
        window.page.wait_for_url(f"{served.address}/enter", timeout=20_000)
        assert "This server is private" in window.page.content()
        window.page.goto(f"{served.address}/enter#wrong-token-000000")
        window.page.get_by_text("Unknown token").wait_for()
        window.sign_in(served)
        window.context.close()
    finally:
        served.end_all()
        served.stop()
