"""Lint valid runbooks: L1xx is danger, L2xx is style. Long because every rule is here, each a few lines.

A comment `# lint: allow L101` on the line of a finding, or on the line above, allows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
from k2run.authoring.validate import files_below, is_stack, show_problems, starts_unseen
from k2run.errors import RunbookInvalid
from k2run.language.document import read_document, read_text
from k2run.language.expressions import Expression, Template, names_in
from k2run.language.inputs import SECRET_SOURCES
from k2run.language.loader import parse_runbook
from k2run.language.model import Backoff, Kind
from k2run.language.problems import ordered
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.authoring.validate import Form
    from k2run.language.document import Document, Trail
    from k2run.language.model import Runbook, Section, Step
    from k2run.language.problems import Problem

_PART = re.compile(r"([a-z_]+)|\[(\d+)\]")


@dataclass(frozen=True)
class PlacedStep:
    """A step and where it stands.

    Attributes:
        trail: The way to it in the document.
        section: The section it is in, if any.
    """

    step: Step
    trail: Trail
    section: Section | None

    @property
    def is_fault(self) -> bool:
        """Whether it breaks something."""
        return self.step.effect is Effect.BREAKS


@dataclass(frozen=True)
class Subject:
    """A valid runbook with its document, so that a finding has a place."""

    runbook: Runbook
    document: Document

    @cached_property
    def steps(self) -> tuple[PlacedStep, ...]:
        """Every step that is written, those inside blocks too, in the order of the file's parts."""
        book = self.runbook
        parts: list[tuple[Section | None, tuple[Step, ...]]] = [
            (None, book.steady_state),
            (None, book.preconditions),
            (None, book.symptoms),
        ]
        parts += [(section, section.steps) for section in book.sections]
        parts.append((None, book.always))
        return tuple(placed for section, steps in parts for step in steps for placed in self._placed(step, section))

    @cached_property
    def faults(self) -> tuple[PlacedStep, ...]:
        """The steps that break something."""
        return tuple(placed for placed in self.steps if placed.is_fault)

    @cached_property
    def used_names(self) -> frozenset[str]:
        """Every name that an expression of the runbook takes."""
        return names_in({**asdict(self.runbook), "inputs": ()})

    def finding(self, code: str, message: str, trail: Trail, **more: Any) -> Problem:
        """A finding at a place of the document; `more` is what `Document.problem` takes."""
        return self.document.problem(code, message, trail, **more)

    def has(self, trail: Trail) -> bool:
        """Whether something is written there."""
        value = self.document.data
        for part in trail:
            if not isinstance(value, dict | list) or (isinstance(value, dict) and part not in value):
                return False
            value = value[part]  # type: ignore[index]
        return True

    def _placed(self, step: Step, section: Section | None) -> Iterator[PlacedStep]:
        yield PlacedStep(step, trail_of(step.path), section)
        for inner in (*step.block, *step.rescue, *step.always):
            yield from self._placed(inner, section)


def open_subject(path: Path, catalogue: Catalogue) -> Subject:
    """Read a runbook for lint.

    Raises:
        RunbookInvalid: It has problems; they come first.
    """
    text = read_text(path)
    return Subject(parse_runbook(text, str(path), catalogue, home=path.parent), read_document(text, str(path)))


def trail_of(path: str) -> Trail:
    """`sections[1].steps[0]` as the keys and indexes that lead there."""
    return tuple(int(index) if index else name for name, index in _PART.findall(path))


_PROMISING = (Kind.SCENARIO, Kind.RECOVERY)
_SECRET_KEY = re.compile(
    r"passw(or)?d|secret|token|api[-_]?key|authorization|credential|private[-_]?key", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"AKIA[0-9A-Z]{16}|gh[pousr]_\w{36}|xox[abp]-[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@{]+:[^/\s@{]+@"
)
_COMMANDS = ("shell.run", "shell.probe", "ssh.run", "ssh.probe")
_BREAKING = re.compile(
    r"\b(p?kill(all)?|shutdown|reboot|iptables|nft|tc\s+qdisc)\b"
    r"|\b(docker|podman)\s+(container\s+)?(stop|kill|pause|rm)\b"
    r"|\bsystemctl\s+(stop|kill|disable)\b|\bkubectl\s+(delete|drain|cordon|scale)\b"
)


def fault_without_steady_state(subject: Subject) -> Iterator[Problem]:
    """L101."""
    if subject.faults and not subject.runbook.steady_state:
        first = subject.faults[0]
        hint = "add `steady_state:` with the steps that must pass before the fault and again after it"
        message = f"`{first.step.action}` breaks something, and no steady state says what a healthy stack looks like"
        yield subject.finding("L101", message, (*first.trail, first.step.action), key=True, hint=hint)


def wait_without_limit(subject: Subject) -> Iterator[Problem]:
    """L102."""
    for placed in subject.steps:
        step = placed.step
        if step.until is not None and step.within is None and step.timeout is None and step.retries is None:
            hint = "add `within:`, which is also the objective; the default limit is one minute"
            yield subject.finding(
                "L102", "this step waits without a limit", (*placed.trail, "until"), key=True, hint=hint
            )


def recovery_without_symptom(subject: Subject) -> Iterator[Problem]:
    """L103."""
    if subject.runbook.kind is Kind.RECOVERY and not subject.runbook.symptoms:
        hint = "add `symptoms:`, the probes that pass when this is the failure at hand"
        yield subject.finding("L103", "this recovery does not say how to recognise its failure", ("kind",), hint=hint)
    for index in starts_unseen(subject.runbook):
        message = "an alert starts nothing by itself without `symptoms`: approval is asked for"
        hint = "add `symptoms:`, the probes that pass when this is the failure at hand"
        yield subject.finding("L103", message, ("alerts", index, "start"), hint=hint)


def no_objective(subject: Subject) -> Iterator[Problem]:
    """L104."""
    promised = subject.runbook.objective
    if subject.runbook.kind in _PROMISING and promised.within is None and promised.rto is None:
        what = subject.runbook.kind.value
        hint = "add `objective: {within: 5m, rto: 90s}`"
        yield subject.finding("L104", f"this {what} promises no time", ("kind",), hint=hint)


def timeout_beyond_budget(subject: Subject) -> Iterator[Problem]:
    """L105."""
    whole = subject.runbook.objective.within
    for placed in subject.steps:
        limit = placed.step.timeout
        section = placed.section.within if placed.section else None
        budget = min((bound for bound in (section, whole) if bound is not None), default=None)
        if limit is not None and budget is not None and limit > budget:
            where = "section's" if budget == section else "runbook's"
            message = f"a timeout of {limit} lets this one step miss the {where} objective of {budget}"
            yield subject.finding("L105", message, (*placed.trail, "timeout"), hint=f"at most {budget}")


def objective_out_of_reach(subject: Subject) -> Iterator[Problem]:
    """L106."""
    for index, section in enumerate(subject.runbook.sections):
        least = _least(section.steps, at_once=section.parallel > 1)
        if section.within is not None and least > section.within:
            message = f"the waits of this section alone take {Duration(least)}"
            yield subject.finding("L106", message, ("sections", index, "within"), hint="shorten them, or promise less")
    whole = subject.runbook.objective.within
    least = sum(_least(section.steps, at_once=section.parallel > 1) for section in subject.runbook.sections)
    if whole is not None and least > whole:
        message = f"the waits of this runbook alone take {Duration(least)}"
        yield subject.finding("L106", message, ("objective", "within"), hint="shorten them, or promise less")
    for placed in subject.steps:
        step = placed.step
        pause = step.every.first if isinstance(step.every, Backoff) else step.every
        if step.until is not None and pause is not None and step.within is not None and pause >= step.within:
            message = f"with a pause of {pause} there is one attempt within {step.within}"
            yield subject.finding("L106", message, (*placed.trail, "every"), hint="look more often")


def _least(steps: Iterable[Step], *, at_once: bool) -> float:
    """The seconds that steps wait whatever happens."""
    waits = [_waited(step) for step in steps if step.when is None]
    return max(waits, default=0.0) if at_once else sum(waits)


def _waited(step: Step) -> float:
    turns = len(step.loop) if isinstance(step.loop, tuple) else 1
    turns = 1 if step.parallel > 1 else turns
    wanted = step.args.get("for")
    own = float(wanted) if step.action == "wait" and isinstance(wanted, Duration) else 0.0
    return turns * (own + _least(step.block, at_once=False))


def secret_in_the_open(subject: Subject) -> Iterator[Problem]:
    """L107."""
    waiting: list[tuple[Any, Trail]] = [(subject.document.data, ())]
    while waiting:
        value, trail = waiting.pop()
        if isinstance(value, dict):
            waiting += [(item, (*trail, key)) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(item, (*trail, index)) for index, item in enumerate(value)]
        elif isinstance(value, str) and _is_secret(value, trail):
            hint = "make it an input of type secret with default env:NAME, or a header of the stack's service"
            yield subject.finding(
                "L107", "this looks like a secret, and runbooks are shared and kept", trail, hint=hint
            )


def _is_secret(value: str, trail: Trail) -> bool:
    if _SECRET_TEXT.search(value):
        return True
    key = str(trail[-1]) if trail else ""
    plain = value.strip() and "{{" not in value and " " not in value.removeprefix("Bearer ").removeprefix("Basic ")
    return bool(
        plain and _SECRET_KEY.search(key) and not value.startswith(SECRET_SOURCES) and "inputs" not in trail[:1]
    )


def fault_whose_failure_is_ignored(subject: Subject) -> Iterator[Problem]:
    """L108."""
    for placed in subject.faults:
        if placed.step.ignore_failure:
            message = "if this fault is not injected, the steps after it judge a healthy stack"
            yield subject.finding(
                "L108", message, (*placed.trail, "ignore_failure"), key=True, hint="remove `ignore_failure`"
            )


def command_without_undo(subject: Subject) -> Iterator[Problem]:
    """L109."""
    for placed in subject.steps:
        command = placed.step.args.get("command")
        text = " ".join(map(str, command)) if isinstance(command, list) else str(command or "")
        action = placed.step.action
        found = _BREAKING.search(text) if action in _COMMANDS else None
        if found and not _is_repair(placed):
            message = f"`{found[0]}` breaks something, and no undo is planned for it"
            hint = "use a fault, such as service.kill or docker.disconnect: it is undone whatever happens"
            yield subject.finding("L109", message, (*placed.trail, action, "command"), hint=hint)


def _is_repair(placed: PlacedStep) -> bool:
    return bool({"always", "rescue"} & set(placed.trail))


def scenario_without_fault(subject: Subject) -> Iterator[Problem]:
    """L110."""
    if subject.runbook.kind is Kind.SCENARIO and not subject.faults and not _runs_others(subject):
        hint = "use a fault such as service.kill or service.pause, or call it a readiness runbook"
        yield subject.finding("L110", "this scenario breaks nothing", ("kind",), hint=hint)


def _runs_others(subject: Subject) -> bool:
    return any(placed.step.action == "run" for placed in subject.steps)


def fault_without_check(subject: Subject) -> Iterator[Problem]:
    """L111."""
    if not subject.faults:
        return
    last = max(subject.steps.index(placed) for placed in subject.faults)
    judged = (step for step in (placed.step for placed in subject.steps[last:]) if step.expect or step.until)
    if next(judged, None) is None and not subject.runbook.steady_state:
        fault = subject.steps[last]
        message = f"nothing after `{fault.step.action}` is judged"
        hint = "add a step with `expect` or `until` that shows the effect of the fault, and its end"
        yield subject.finding("L111", message, (*fault.trail, fault.step.action), key=True, hint=hint)


DANGERS = (
    fault_without_steady_state,
    wait_without_limit,
    recovery_without_symptom,
    no_objective,
    timeout_beyond_budget,
    objective_out_of_reach,
    secret_in_the_open,
    fault_whose_failure_is_ignored,
    command_without_undo,
    scenario_without_fault,
    fault_without_check,
)


_ADDRESS = re.compile(r"https?://[^{\s]+")


def unused_value(subject: Subject) -> Iterator[Problem]:
    """L201."""
    book, used = subject.runbook, subject.used_names
    given: list[tuple[str, Trail]] = [(entry.name, ("inputs", entry.name)) for entry in book.inputs]
    given += [(name, ("vars", name)) for name in book.vars]
    for index, section in enumerate(book.sections):
        given += [(name, ("sections", index, "vars", name)) for name in section.vars]
    given += [(name, (*placed.trail, "vars", name)) for placed in subject.steps for name in placed.step.vars]
    for name, trail in given:
        if name not in used:
            yield subject.finding("L201", f"`{name}` is never used", trail, key=True, hint="remove it")


def unused_result(subject: Subject) -> Iterator[Problem]:
    """L202."""
    for placed in subject.steps:
        name = placed.step.register
        if name and name not in subject.used_names:
            message = f"the result `{name}` is never used"
            yield subject.finding("L202", message, (*placed.trail, "register"), hint="remove `register`")


def step_without_name(subject: Subject) -> Iterator[Problem]:
    """L203."""
    for placed in subject.steps:
        if not subject.has((*placed.trail, "name")) and placed.step.action not in ("set", "assert", "wait", ""):
            hint = "add `name:` with what is true when the step has passed"
            message = f"this step is shown as `{placed.step.action}`"
            yield subject.finding("L203", message, (*placed.trail, placed.step.action), key=True, hint=hint)


def name_twice(subject: Subject) -> Iterator[Problem]:
    """L204."""
    seen: dict[tuple[Trail, str], PlacedStep] = {}
    for placed in subject.steps:
        if isinstance(placed.step.name, Template) or not subject.has((*placed.trail, "name")):
            continue
        first = seen.setdefault((placed.trail[:-1], placed.step.name), placed)
        if first is not placed:
            message = "another step beside this one has the same name"
            hint = f"the first one is in line {first.step.place.line}"
            yield subject.finding("L204", message, (*placed.trail, "name"), hint=hint)


def section_without_name(subject: Subject) -> Iterator[Problem]:
    """L205."""
    for index, section in enumerate(subject.runbook.sections):
        if not subject.has(("sections", index, "name")):
            yield subject.finding(
                "L205", f"this section is shown as `{section.name}`", ("sections", index), hint="add `name:`"
            )


def no_title_or_owner(subject: Subject) -> Iterator[Problem]:
    """L206."""
    missing = [key for key in ("title", "owner") if not subject.has((key,))]
    if missing:
        what = " and no ".join(missing)
        yield subject.finding("L206", f"this runbook has no {what}", ("runbook",), key=True, hint="readers need both")


def constant_condition(subject: Subject) -> Iterator[Problem]:
    """L207."""
    for placed in subject.steps:
        step = placed.step
        single: list[tuple[str, Expression | None]] = [("when", step.when), ("until", step.until)]
        for key, condition in [*single, *(("expect", item) for item in step.expect)]:
            if condition is not None and not condition.syntax.references:
                message = f"`{condition.text}` is always the same"
                yield subject.finding(
                    "L207", message, (*placed.trail, key), hint="compare something with it, or remove it"
                )


def points_without_score(subject: Subject) -> Iterator[Problem]:
    """L208."""
    if subject.runbook.score is not None:
        return
    for placed in subject.steps:
        if placed.step.points is not None:
            hint = "add `score:` with its categories, or remove the points"
            yield subject.finding(
                "L208", "these points are not counted", (*placed.trail, "points"), key=True, hint=hint
            )


def address_in_the_runbook(subject: Subject) -> Iterator[Problem]:
    """L209."""
    for placed in subject.steps:
        url = placed.step.args.get("url")
        if isinstance(url, str) and _ADDRESS.match(url):
            hint = "name a service of the stack: {service: api, path: /health}"
            message = "this address ties the runbook to one environment"
            yield subject.finding("L209", message, (*placed.trail, placed.step.action, "url"), hint=hint)


def input_without_help(subject: Subject) -> Iterator[Problem]:
    """L210."""
    for entry in subject.runbook.inputs:
        if not entry.help:
            hint = "add `help:` with its unit"
            yield subject.finding(
                "L210", f"nothing says what `{entry.name}` is", ("inputs", entry.name), key=True, hint=hint
            )


TIDINESS = (
    unused_value,
    unused_result,
    step_without_name,
    name_twice,
    section_without_name,
    no_title_or_owner,
    constant_condition,
    points_without_score,
    address_in_the_runbook,
    input_without_help,
)


_ALLOWED = re.compile(r"#\s*lint:\s*allow\s+((?:L\d{3}[,\s]*)+)")


def lint_files(paths: list[str], *, form: Form) -> list[Problem]:
    """Lint runbooks and show every finding; for an invalid runbook, its problems."""
    catalogue = Catalogue()
    files = [file for path in paths for file in files_below(Path(path)) if not is_stack(file)]
    found = [finding for file in files for finding in _of_file(file, catalogue)]
    show_problems(found, len(files), form=form, noun="finding")
    return found


def _of_file(file: Path, catalogue: Catalogue) -> list[Problem]:
    try:
        return findings(open_subject(file, catalogue))
    except RunbookInvalid as invalid:
        return list(invalid.problems)


def findings(subject: Subject) -> list[Problem]:
    """What every rule finds in a runbook, in the order of the file, without what its comments allow."""
    lines = subject.document.text.splitlines()
    found = ordered(finding for rule in (*DANGERS, *TIDINESS) for finding in rule(subject))
    return [finding for finding in found if finding.code not in _allowed(lines, finding.place.line)]


def _allowed(lines: list[str], line: int) -> set[str]:
    """The codes that comments allow on a line (counted from 1)."""
    near = lines[max(0, line - 2) : line]
    return {code for text in near for match in _ALLOWED.finditer(text) for code in re.findall(r"L\d{3}", match[1])}
