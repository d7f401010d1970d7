import msgspec
from msgspec.structs import replace

from k2run.engine.events import (
    FaultStruck,
    Outcome,
    OutlineSection,
    OutlineStep,
    RunFinished,
    RunResumed,
    RunStarted,
    SectionFinished,
    SectionStarted,
    StepFinished,
    StepStarted,
    UndoFinished,
    UndoPlanned,
)
from k2run.evidence.view import RunView, tally, trouble, verdict, view_of
from k2run.evidence.wording import Standing


def started(*paths):
    steps = [OutlineStep(path=path, name=path, action="http.get") for path in paths]
    return RunStarted(
        run="r1",
        runbook="a.yaml",
        name="a",
        title="A",
        kind="readiness",
        digest="",
        stack="sandbox",
        outline=[OutlineSection(path="s", name="S", steps=steps)],
    )


def begins(path, action="http.get"):
    return StepStarted(step=path, section="s", name=path, action=action)


def ends(path, outcome=Outcome.PASSED, action="http.get", **more):
    return StepFinished(step=path, section="s", name=path, action=action, outcome=outcome, seconds=0.1, **more)


def names(view):
    return [step.path for step in view.leaves()]


def test_the_outline_shows_every_step_before_it_has_run():
    view = view_of([started("s.steps[0]", "s.steps[1]")])
    assert [step.standing for step in view.leaves()] == [Standing.WAITING] * 2


def test_steps_that_run_at_once_keep_the_order_of_the_runbook():
    paths = [f"s.steps[{n}]" for n in range(12)]
    view = view_of([started(*paths), *(ends(path) for path in reversed(paths))])
    assert names(view) == paths


def test_the_turns_of_a_loop_take_the_place_of_the_step_in_the_outline():
    view = view_of(
        [started("s.steps[0]", "s.steps[1]"), *(e(f"s.steps[0]#{n}") for n in range(3) for e in (begins, ends))]
    )
    assert names(view) == ["s.steps[0]#0", "s.steps[0]#1", "s.steps[0]#2", "s.steps[1]"]


def test_turns_of_a_loop_that_have_the_same_name_are_told_apart():
    turns = [msgspec.structs.replace(ends(f"s.steps[0]#{n}"), name="s.steps[0]") for n in range(2)]
    assert [step.name for step in view_of([started("s.steps[0]"), *turns]).leaves()] == [
        "s.steps[0] (1)",
        "s.steps[0] (2)",
    ]


def test_a_failure_inside_a_block_that_passed_is_rescued():
    block, inner = "s.steps[0]", "s.steps[0].block[0]"
    view = view_of(
        [
            started(block),
            begins(block, "block"),
            begins(inner),
            ends(inner, Outcome.FAILED),
            ends(block, action="block"),
        ]
    )
    step = view.step(inner)
    assert step is not None
    assert view.rescued(step)
    assert step.depth == 1
    assert names(view) == [inner], "the block only groups"


def test_a_resumed_run_forgets_its_first_verdict_and_the_attempt_that_was_cut_off():
    first = [
        started("s.steps[0]"),
        begins("s.steps[0]"),
        RunFinished(outcome=Outcome.INTERRUPTED, verdict="interrupted", exit_code=3, seconds=1),
    ]
    view = view_of([*first, RunResumed(finished_steps=0)])
    assert view.finished is None
    view.fold(begins("s.steps[0]"))
    view.fold(ends("s.steps[0]"))
    assert [step.standing for step in view.leaves()] == [Standing.PASSED]


def test_a_section_that_a_resumed_run_only_passes_through_keeps_its_time():
    def section(event, **more):
        return event(section="s", name="S", within=1.0, **more)

    def over(seconds, seq):
        return section(SectionFinished, outcome=Outcome.PASSED, seconds=seconds, seq=seq)

    first = [started("s.steps[0]"), section(SectionStarted, seq=2), ends("s.steps[0]", seq=3), over(2.2, 4)]
    view = view_of([*first, RunResumed(seq=5), section(SectionStarted, seq=6), over(0.0, 7)])
    assert view.sections["s"].finished.seconds == 2.2
    again = [RunResumed(seq=5), section(SectionStarted, seq=6), ends("s.steps[1]", seq=7), over(0.4, 8)]
    assert view_of([*first, *again]).sections["s"].finished.seconds == 0.4


def test_pending_undos_come_newest_first_and_a_failed_one_stays():
    plans = [
        UndoPlanned(undo=f"u{n}", step="s.steps[0]", action="service.start", args={}, says=f"start {n}")
        for n in range(3)
    ]
    undone = [
        UndoFinished(undo="u2", says="start 2", outcome=Outcome.PASSED),
        UndoFinished(undo="u1", says="start 1", outcome=Outcome.FAILED, message="port taken"),
    ]
    view = view_of([started("s.steps[0]"), *plans, *undone])
    assert [undo.planned.undo for undo in view.pending_undos()] == ["u1", "u0"]


def test_recovery_is_counted_from_the_moment_the_fault_was_let_go():
    view = view_of(
        [
            started("s.steps[0]"),
            begins("s.steps[0]"),
            FaultStruck(step="s.steps[0]", action="service.kill", name="k", began=4.5, t=9.0),
        ]
    )
    assert view.recovering_since() == 4.5


def test_a_failure_that_does_not_count_is_not_called_failed():
    view = view_of(
        [
            started("s.steps[0]", "s.steps[1]", "s.steps[2]"),
            ends("s.steps[0]", Outcome.FAILED, severity="warning"),
            ends("s.steps[1]", Outcome.FAILED, ignored=True),
            ends("s.steps[2]", Outcome.FAILED),
        ]
    )
    assert [step.standing for step in view.leaves()] == [Standing.WARNING, Standing.IGNORED, Standing.FAILED]
    assert [step.standing for step in trouble(view)] == [Standing.FAILED, Standing.WARNING, Standing.IGNORED], (
        "gravest first"
    )


def test_folding_one_by_one_tells_at_any_moment_what_the_journal_so_far_tells(demo_day):
    live = RunView()
    for number, event in enumerate(demo_day, start=1):
        live.fold(event)
        if number % 10 == 0:
            assert live == view_of(demo_day[:number])


def test_what_was_cut_off_and_what_was_not_reached_are_counted_too():
    view = view_of([started("s.steps[0]", "s.steps[1]", "s.steps[2]"), ends("s.steps[0]"), begins("s.steps[1]")])
    assert tally(view) == "1 passed; 1 cut off, 1 not reached"


def test_the_verdict_is_a_word_and_the_rest_of_its_sentence(good, bad):
    assert verdict(good, good.finished) == ("GO", "subject to 3 items for a person")
    assert verdict(bad, bad.finished) == ("INTERRUPTED", "")
    refused = replace(good.finished, outcome=Outcome.FAILED, verdict="no-go: score 80 is below 95")
    assert verdict(good, refused) == ("NO-GO", "score 80 is below 95")
