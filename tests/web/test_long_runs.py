"""A run of 20,000 steps is drawn beside the event loop: whoever asks meanwhile is answered at once."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

STEPS = 20_000
HEAD = "runbook: 1\nkind: readiness\nname: {name}\ntitle: Long\nsections:\n  - name: All\n    steps:\n"
KINDS = {
    "written": "".join(f"      - {{name: Step {n}, set: {{n: {n}}}}}\n" for n in range(STEPS)),
    "looped": 2 * f'      - {{loop: "{{{{ range({STEPS // 2}) }}}}", set: {{n: "{{{{ item }}}}"}}}}\n',
}
CHECK = "      - assert: {that: 1 == 1}\n"
PROBE = """\
import http.client, sys, time
worst, asked = 0.0, 0
while not sys.stdin.closed:
    began = time.perf_counter()
    link = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    link.request("GET", "/healthz")
    assert link.getresponse().read()
    worst, asked = max(worst, time.perf_counter() - began), asked + 1
    link.close()
    time.sleep(0.02)
    import select
    if select.select([sys.stdin], [], [], 0)[0]:
        break
print(worst * 1000, asked)
"""
"""Asks until it is told to end, in a process of its own; then says the longest wait in ms."""


@pytest.fixture(scope="module")
def long(lay_out: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server, and what each runbook of 20,000 steps took: to check it, and to run it."""
    made = lay_out(tmp_path_factory.mktemp("long"))
    made.runs, made.took = {}, {}
    for kind, steps in KINDS.items():
        file = made.folder / f"{kind}.yaml"
        file.write_text(HEAD.format(name=kind) + steps + CHECK)
        for what, words in (("validate", ["validate"]), ("run", ["run", "--plain", "--stack", "none"])):
            began = time.monotonic()
            command = [sys.executable, "-m", "k2run", *words[:1], str(file), *words[1:]]
            done = subprocess.run(
                command, cwd=made.folder, env=made.environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
            made.took[kind, what] = time.monotonic() - began
        made.runs[kind] = max((made.home / "runs").iterdir()).name
    made.start()
    yield made
    made.end_all()
    made.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_twenty_thousand_steps_keeps_nobody_waiting(long: Any, kind: str) -> None:
    port = long.address.rpartition(":")[2]
    for page in ("", "/events", "/report", "/oncall"):
        with (
            subprocess.Popen(
                [sys.executable, "-c", PROBE, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as probe,
            long.client() as client,
        ):
            time.sleep(0.3)
            began = time.monotonic()
            with client.stream("GET", f"/runs/{long.runs[kind]}{page}") as answer:
                assert answer.status_code == 200
                next(answer.iter_raw())
            took = time.monotonic() - began
            out, _ = probe.communicate("\n")
        worst, asked = (float(word) for word in out.split())
        print(f"{kind}{page}: drawn in {took:.2f} s; /healthz at worst {worst:.0f} ms of {asked:.0f}")
        assert asked > 5
        assert worst < 100, page


def test_a_runbook_of_twenty_thousand_written_steps_is_checked_in_a_time_that_grows_with_it(long: Any) -> None:
    print({" ".join(what): round(seconds, 1) for what, seconds in long.took.items()})
    assert long.took["written", "validate"] < 60
