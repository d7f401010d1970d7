"""The steps of a runbook: which there are, which of them a run selects, and which depend on one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.action import Blast, Effect
from k2run.engine.events import OutlineBand, OutlineCategory, OutlineSection, OutlineStep
from k2run.errors import UsageError
from k2run.language.model import Kind, Severity
from k2run.language.problems import did_you_mean
from k2run.language.vocabulary import HARMS, RUN, SET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.engine.execution import Execution, Options
    from k2run.language.model import Runbook, Section, Step

STEADY_BEFORE, STEADY_AFTER, ALWAYS = "steady_state", "steady_state_after", "always"
"""Paths of the sections that a runbook has beside its own."""


def outline(runbook: Runbook) -> list[OutlineSection]:
    """The sections of a runbook in the order in which they run."""
    sections = [_section(section.path, section.name, section.steps, section) for section in runbook.sections]
    first = () if runbook.kind is Kind.RECOVERY else runbook.steady_state  # a recovery ends with it
    before = [_section(STEADY_BEFORE, "Steady state", first)] if first else []
    after = [_section(ALWAYS, "Always", runbook.always)] if runbook.always else []
    return [*before, *sections, *after]


def categories(runbook: Runbook) -> list[OutlineCategory]:
    """The categories of the runbook's score."""
    found = runbook.score.categories if runbook.score else ()
    return [OutlineCategory(name=entry.name, title=entry.title, points=entry.points) for entry in found]


def bands(runbook: Runbook) -> list[OutlineBand]:
    """The bands of the runbook's score."""
    found = runbook.score.bands if runbook.score else ()
    return [OutlineBand(at_least=band.at_least, name=band.name, light=band.light) for band in found]


def all_steps(runbook: Runbook) -> Iterator[Step]:
    """Every step of a runbook, those inside blocks and in the runbooks that it runs too."""
    top = (runbook.steady_state, *(section.steps for section in runbook.sections), runbook.always)
    for steps in top:
        yield from steps_within(steps)
    for inner in runbook.runs.values():
        yield from all_steps(inner)


def steps_within(steps: Sequence[Step]) -> Iterator[Step]:
    """Steps, each followed by those inside of it."""
    for step in steps:
        yield step
        for inner in (step.block, step.rescue, step.always):
            yield from steps_within(inner)


def names_given(step: Step) -> list[str]:
    """The names that a step, and those inside of it, give to the steps after them."""
    return [
        name
        for each in steps_within([step])
        for name in ([each.register] if each.register else each.args if each.action == SET.name else [])
    ]


def _section(path: str, name: str, steps: Sequence[Step], section: Section | None = None) -> OutlineSection:
    return OutlineSection(
        path=path,
        name=name,
        within=section.within if section else None,
        steps=[_step(step, section.category if section else "") for step in steps],
    )


def _step(step: Step, category: str) -> OutlineStep:
    points = step.points
    return OutlineStep(
        path=step.path,
        name=str(step.name),
        action=step.action or "block",
        severity=step.severity.value,
        points=points.maximum if points else 0.0,
        category=(points.category or category) if points else "",
    )


ALWAYS_TAG = "always"


def steps_before(runbook: Runbook, start_at: str) -> frozenset[str]:
    """The paths of the steps before the one at which a run begins; steady state and `always` are never left out.

    Args:
        runbook: What is run.
        start_at: Name, id, path or a unique part of the name of a step that stands in a section; "" begins at the top.

    Raises:
        UsageError: No step is called so, or several are.
    """
    if not start_at:
        return frozenset()
    steps = [step for section in runbook.sections for step in section.steps]
    names = [str(step.name) for step in steps]
    exact = [number for number, step in enumerate(steps) if start_at in {str(step.name), step.id, step.path}]
    fitting = exact or [number for number, name in enumerate(names) if start_at.lower() in name.lower()]
    if len(fitting) == 1:
        return frozenset(step.path for step in steps[: fitting[0]])
    if fitting:
        which = "; ".join(f"{names[number]} ({steps[number].path})" for number in fitting[:5])
        raise UsageError(f"--start-at {start_at!r} fits {len(fitting)} steps", hint=f"give the path of one: {which}")
    hint = did_you_mean(start_at, names) or "`--list-steps` shows them"
    raise UsageError(f"--start-at: there is no step {start_at!r} in a section of {runbook.name}", hint=hint)


def check_tags(runbook: Runbook, options: Options) -> None:
    """Refuse a tag that nothing has: the run would leave out everything, or nothing, and seem to have done its work.

    Raises:
        UsageError: No step, section or runbook that is run has it.
    """
    known = _tags(runbook) | {ALWAYS_TAG}
    for option, tags in (("--tags", options.tags), ("--skip-tags", options.skip_tags)):
        for tag in sorted(tags - known):
            named = ", ".join(sorted(known - {ALWAYS_TAG}))
            hint = did_you_mean(tag, known) or (f"its tags are {named}" if named else "it has no tags")
            raise UsageError(f"{option}: no step of {runbook.name} has the tag {tag!r}", hint=hint)


def _tags(runbook: Runbook) -> frozenset[str]:
    """The tags of a runbook's sections and steps, and of the runbooks that it runs."""
    own = (section.tags for section in runbook.sections)
    return frozenset[str]().union(*own, *(step.tags for step in all_steps(runbook)), *map(_tags, runbook.runs.values()))


BEFORE, LEFT_OUT = "before --start-at ", "left out by --"
"""How the reasons begin for which a run leaves a step out; the judgement of a run knows a part by them."""


def left_out(step: Step, inherited: frozenset[str], run: Execution) -> str:
    """Why a run leaves a step out; empty when it does not.

    `inherited` are the tags of its section, of the blocks around it, and of the step that runs its runbook.
    """
    options = run.options
    if step.path in run.before:
        return f"{BEFORE}{options.start_at}"
    if not (options.tags or options.skip_tags):
        return ""
    tags = step.tags | inherited
    if options.skip_tags & tags:
        return f"{LEFT_OUT}skip-tags {','.join(sorted(options.skip_tags & tags))}"
    wanted = options.tags | {ALWAYS_TAG}
    if options.tags and not (wanted & tags or any(wanted & inner for inner in _tags_within(step, run.runbook))):
        return f"{LEFT_OUT}tags {','.join(sorted(options.tags))}"
    return ""


def _tags_within(step: Step, runbook: Runbook) -> Iterator[frozenset[str]]:
    """The tags of all that is inside of a block, or of the runbook that a step runs, however deep."""
    for inner in (*step.block, *step.rescue, *step.always):
        yield inner.tags
        yield from _tags_within(inner, runbook)
    if step.action == RUN.name:
        book = runbook.runs.get(str(step.args.get("runbook")))
        for section in book.sections if book else ():
            yield section.tags
            for inner in section.steps:
                yield inner.tags
                yield from _tags_within(inner, book or runbook)


_NO_EXPERIMENT = frozenset({STEADY_BEFORE, STEADY_AFTER, ALWAYS})


def is_built_on(step: Step, section: Section, runbook: Runbook) -> bool:
    """Whether the steps after this one depend on what it does to the stack.

    They do on every fault, and on every change that is part of an experiment: in a scenario, in a recovery, and beside
    a fault in the same section. A step that is not critical, or whose failure is ignored, is one to do without.
    A block is such a step when one of its steps is.
    """
    if section.path in _NO_EXPERIMENT or step.ignore_failure or step.severity is not Severity.CRITICAL:
        return False
    if step.block:
        return any(is_built_on(inner, section, runbook) for inner in step.block)
    return step.effect in HARMS or (step.effect is Effect.CHANGES and _is_experiment(section, runbook))


def is_proof(step: Step, section: str, run: Execution) -> bool:
    """Whether a step writes a probe, to prove a recovery: that changes data, and repairs nothing.

    `section` is the path of its section.
    """
    if run.runbook.kind is not Kind.RECOVERY or step.effect is not Effect.CHANGES:
        return False
    proves = any(each.path == section and each.clock == "rto" for each in run.runbook.sections)
    action = run.caller.catalogue.find(step.action) if proves else None
    return action is not None and action.blast is Blast.DATA


def _is_experiment(section: Section, runbook: Runbook) -> bool:
    if runbook.kind in {Kind.SCENARIO, Kind.RECOVERY}:
        return True
    return any(step.effect is Effect.BREAKS for step in steps_within(section.steps))
