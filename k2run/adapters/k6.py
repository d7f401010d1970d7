"""k6: runs a load test, whose thresholds become objectives of the run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Effect, Judged, Result, action, ending
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import Unreadable, read_json
from k2run.adapters._command import Child
from k2run.errors import Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Mapping

THRESHOLDS_MISSED = 99
"""The exit code of a test that ran to its end and missed a threshold."""
QUOTED = 400
"""Characters of what k6 said that an error quotes."""


class Report(Result, frozen=True, kw_only=True):
    """A load test that ran to its end.

    Attributes:
        metrics: The figures of each metric as k6 names them: `result.metrics.http_req_duration["p(95)"]`, in
            milliseconds for durations.
        requests: HTTP requests that were made; None when the test makes none.
        failed_percent: Of them that failed; None without any.
        iterations: How often the script was run.
        checks_passed: None when the script checks nothing.
        checks_failed: Likewise.
        thresholds: How many the script declares.
        thresholds_missed: How many of them were missed.
        elapsed_s: From the start of k6 to its end.
    """

    metrics: dict[str, dict[str, float]]
    requests: int | None
    failed_percent: float | None
    iterations: int
    checks_passed: int | None
    checks_failed: int | None
    thresholds: int
    thresholds_missed: int
    elapsed_s: float
    objectives: list[Judged] = []

    def headline(self) -> str:
        """Such as `1,204 requests, 0 % failed, 2 of 2 thresholds met`."""
        made = f"{self.iterations:,} iterations" if self.requests is None else f"{self.requests:,} requests"
        failed = "" if self.failed_percent is None else f", {self.failed_percent:g} % failed"
        met = self.thresholds - self.thresholds_missed
        return f"{made}{failed}" + (f", {met} of {self.thresholds} thresholds met" if self.thresholds else "")

    def judged(self) -> list[Judged]:
        """The script's thresholds."""
        return self.objectives


@action("k6.run", effect=Effect.CHANGES)
def run(
    deadline: Deadline,
    script: str,
    env: dict[str, str] = {},
    vus: int = 0,
    duration: Duration | None = None,
    options: list[str] = [],
    program: str = "k6",
) -> Report:
    """Run a k6 script to its end; each of its thresholds becomes an objective, met or missed.

    Args:
        script: The file with the test.
        env: What the script reads as `__ENV.NAME`; handed over in the environment, not on the command line.
        vus: Virtual users, instead of what the script says.
        duration: How long to run, instead of what the script says.
        options: Further words for `k6 run`, such as `--tag`.
        program: The k6 program.
    """
    if not Path(script).is_file():
        raise Refused(f"{script} is not a file on this machine", hint="give the path of the script")
    found = shutil.which(program)
    if found is None:
        raise Unreachable(
            f"{program} is not installed on this machine", hint="install k6, or name it: program: /path/to/k6"
        )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="k2run-k6-") as folder:
        summary = Path(folder) / "summary.json"
        words = [found, "run", f"--summary-export={summary}", "--no-color", "--quiet", *options]
        words += [f"--vus={vus}"] if vus else []
        words += [f"--duration={int(duration * 1000)}ms"] if duration is not None else []
        code, said = _ended([*words, script], env, deadline)
        content = summary.read_bytes() if summary.exists() else b""
    if code not in {0, THRESHOLDS_MISSED}:
        raise Refused(
            f"k6 exited {code} on {script}: {ending(said, QUOTED)}", hint="the script fails: run it with k6 alone"
        )
    return _report(content, code, script, time.monotonic() - started)


def _ended(words: list[str], env: Mapping[str, str], deadline: Deadline) -> tuple[int, str]:
    """The exit code of k6 and its last words; it ends with the step."""
    own = {**os.environ, **env, "K6_NO_USAGE_REPORT": "true"}
    try:
        with Child(words, program=None, env=own, cwd="", stdin=b"") as child:
            return child.until_exit(deadline), child.last_words()
    except TimedOut as error:
        hint = "a test takes as long as its script says: raise the step's timeout, or give a shorter duration"
        raise TimedOut(f"k6 did not finish within {deadline.seconds:g}s", hint=hint) from error


def _report(content: bytes, code: int, script: str, elapsed_s: float) -> Report:
    try:
        metrics = read_json(content)["metrics"]
        figures = {name: _figures(metric) for name, metric in metrics.items()}
        objectives = [
            Judged(objective=f"{name}: {bound}", met=_met(verdict), says=_measured(figures[name], bound))
            for name, metric in metrics.items()
            for bound, verdict in metric.get("thresholds", {}).items()
        ]
    except (Unreadable, KeyError, TypeError, AttributeError) as error:
        hint = "does the script define handleSummary, which replaces the summary? k6 --version says which k6 it is"
        raise Unknown(f"k6 left no readable summary of {script}: {error}", hint=hint) from error
    missed = sum(not one.met for one in objectives)
    if bool(missed) != (code == THRESHOLDS_MISSED):
        raise Unknown(
            f"k6 exited {code}, and its summary says that {missed} of {len(objectives)} thresholds were missed",
            hint="one of the two is wrong; run k6 by hand and compare",
        )
    iterations = _count(figures, "iterations", "count")
    if not iterations:
        raise Unknown(f"{script} ran, but finished no iteration", hint="is its duration long enough?")
    checks = figures.get("checks", {})
    failed = figures.get("http_req_failed", {})
    requests = _count(figures, "http_reqs", "count")
    return Report(
        metrics=figures,
        requests=requests,
        failed_percent=round(100 * failed.get("value", failed.get("rate", 0.0)), 4) if failed and requests else None,
        iterations=iterations,
        checks_passed=int(checks["passes"]) if checks else None,
        checks_failed=int(checks["fails"]) if checks else None,
        thresholds=len(objectives),
        thresholds_missed=missed,
        elapsed_s=round(elapsed_s, 3),
        objectives=objectives,
        source=f"k6 {script}",
    )


def _figures(metric: dict[str, Any]) -> dict[str, float]:
    values = metric.get("values", metric)
    return {
        name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _met(verdict: Any) -> bool:
    """Whether a threshold was met: `--summary-export` writes true for one that was missed, newer forms `{ok: …}`."""
    return bool(verdict["ok"]) if isinstance(verdict, dict) else not verdict


def _measured(figures: Mapping[str, float], bound: str) -> str:
    """The figure that a threshold such as `p(95)<500` is about."""
    name = bound.partition("<")[0].partition(">")[0].partition("=")[0].partition("!")[0].strip()
    value = figures.get(name, figures.get("value") if name == "rate" else None)
    return f"{name} = {value:g}" if value is not None else json.dumps(figures)


def _count(figures: Mapping[str, Mapping[str, float]], metric: str, name: str) -> int | None:
    return int(figures[metric][name]) if name in figures.get(metric, {}) else None
