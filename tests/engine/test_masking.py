"""Secrets are masked in texts, never in the structure: any word may be a secret, and the run goes on as without it."""

from __future__ import annotations

import base64
import html
import json
import random
import re
import shlex
import string
import time
from enum import Enum
from typing import TYPE_CHECKING, Any, get_args, get_type_hints
from urllib.parse import quote, quote_plus

import pytest

from k2run.actions.action import beginning, ending
from k2run.adapters.shell import QUOTED
from k2run.engine.events import Event, Noted, StepFinished, UndoFinished, UndoPlanned, ValueKept
from k2run.engine.replay import leftover
from k2run.engine.run import undo
from k2run.engine.variables import Sources
from k2run.errors import StackInvalid
from k2run.stack.redactor import Redactor
from k2run.stack.secrets import MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Bench

TWO_FAULTS = """\
runbook: 1
kind: scenario
name: hold
title: Two services are held while secrets are known
inputs:
  first: {type: secret, default: "env:FIRST"}
  second: {type: secret, default: "env:SECOND"}
sections:
  - name: Break
    steps:
      - {name: Pause one, service.pause: {service: one}}
      - {name: Pause two, service.pause: {service: two}, register: held}
      - {name: Uses it, assert: {that: held.service == 'two'}}
"""
WORDS = ("pass", "name", "step", "true", "event", "passed", "args", "undo", "1234", "service", "two_", "outcome")


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def give(first: str, second: str = "unrelated-words") -> None:
        monkeypatch.setenv("FIRST", first)
        monkeypatch.setenv("SECOND", second)

    return give


def undone(bench: Bench, **given: str) -> list[str]:
    """What `k2run undo -e …` could not undo of the last run."""
    left = leftover(bench.store, "none")
    assert left is not None
    sources = Sources((left.folder / "runbook.yaml").read_text(), bench.folder, bench.stack(), given)
    return undo(left, bench.stack(), bench.store, (), sources)


@pytest.mark.parametrize("word", WORDS)
def test_a_secret_that_is_a_word_of_the_journal_changes_nothing_of_the_run(
    sleepers: Bench, secret: Callable[..., None], word: str
) -> None:
    secret(word)
    finished = sleepers.run(TWO_FAULTS)
    assert finished.exit_code == 0, finished
    undone = [event for event in sleepers.journal() if isinstance(event, UndoFinished)]
    assert [event.outcome.value for event in undone] == ["passed", "passed"]
    planned = [event.args for event in sleepers.journal() if isinstance(event, UndoPlanned)]
    assert planned == [{"service": "one"}, {"service": "two"}]


def test_a_secret_that_is_an_ordinary_word_is_masked_where_it_stands_alone_and_said_once(
    bench: Bench, secret: Callable[..., None], readiness: Callable[..., str]
) -> None:
    secret("pass", "postgres")
    steps = """
    - name: Passes by
      shell.run: {command: "echo pass, passing by 'postgres'"}
    - name: Again
      shell.run: {command: "echo pass"}
    """
    top = 'inputs: {a: {type: secret, default: "env:FIRST"}, b: {type: secret, default: "env:SECOND"}}\n'
    assert bench.run(readiness(steps, top)).exit_code == 0
    assert bench.steps()["Passes by"].result["stdout"] == f"{MASK}, passing by {MASK}\n".strip()
    said = [event.message for event in bench.seen if isinstance(event, Noted) and "ordinary word" in event.message]
    assert len(said) == 2
    assert "env:FIRST" in said[0]


@pytest.mark.parametrize("word", ["name", "word", "stands", "secret", "something"])
def test_the_remark_on_an_ordinary_word_says_where_it_was_read_in_whole_words(
    bench: Bench, secret: Callable[..., None], readiness: Callable[..., str], word: str
) -> None:
    """It would mask itself: `it is the ••• of something`. The remark does not say which word is the secret."""
    secret(word)
    top = f'owner: "{word}"\ninputs: {{a: {{type: secret, default: "env:FIRST"}}}}\n'
    bench.run(readiness("- assert: {that: 1 == 1}\n", top))
    [said] = [event for event in bench.seen if isinstance(event, Noted)]
    assert "the secret env:FIRST is an ordinary word" in said.message
    assert "the name of something" in said.message
    assert MASK not in said.message + said.hint


KEPT_FOR_A_RESUME = """\
runbook: 1
kind: scenario
name: kept
title: What a resumed run works with again
inputs: {pw: {type: secret, default: "env:FIRST"}}
vars: {early: "{{ pw }} at {{ now() }}"}
sections:
  - name: Loops
    vars: {late: "{{ [pw, now()] }}"}
    steps:
      - {loop: ["{{ pw }}", plain], set: {one: "{{ item }}"}}
      - {loop: [{key: "{{ pw }}", why: "{{ now() }}"}], set: {two: "{{ item.key }}"}}
      - {name: Held, service.pause: {service: one}}
      - {name: Same, assert: {that: [one == 'plain', "two == pw", "late[0] == pw", "early.startswith(pw)"]}}
  - name: Left
    steps:
      - skip_section: {because: "{{ pw }} is wrong"}
"""


@pytest.mark.parametrize("text", ["hunter2hunter2", "p@ss:wörd\"/'\\n"])
def test_loops_times_and_reasons_that_hold_a_secret_are_kept_by_its_source(
    sleepers: Bench, secret: Callable[..., None], text: str
) -> None:
    """And a run that is resumed works with the same values."""
    secret(text)
    assert sleepers.run(KEPT_FOR_A_RESUME).exit_code == 0, sleepers.steps()
    folder = sleepers.store.find_run("last")
    journal = folder / "journal.jsonl"
    whole = journal.read_text()
    events = sleepers.journal()
    assert text not in whole
    assert json.dumps(text)[1:-1] not in whole
    kept = [event for event in events if isinstance(event, ValueKept)]
    assert len(kept) == 4
    assert all(("env:FIRST", "plain") in event.secrets.values() for event in kept)
    left = next(event for event in events if isinstance(event, StepFinished) and event.leap)
    assert left.leap["because"] == f"{MASK}1 is wrong"
    stack = sleepers.stack()
    sources = Sources((folder / "runbook.yaml").read_text(), sleepers.folder, stack, {})
    back = {event.of: event.value for event in sources.recalled(events) if isinstance(event, ValueKept)}
    assert back["sections[0].steps[0]"] == [text, "plain"]
    assert back["vars.early"].startswith(f"{text} at ")
    assert back["sections[0].steps[1]"][0]["key"] == text


STRUCTURE = {
    "RunStarted": {
        *("run", "runbook", "name", "kind", "digest", "stack", "stack_file", "by", "versions", "environment"),
        *("outline", "categories", "bands"),
    },
    "RunResumed": {"by"},
    "StackChanged": {"verb", "services"},
    "SectionStarted": {"section"},
    "SectionFinished": {"section"},
    "StepStarted": {"step", "section", "action"},
    "StepTried": {"step"},
    "StepFinished": {"step", "section", "action", "severity", "recovery", "category"},
    "ValueKept": {"of"},
    "UndoPlanned": {"undo", "step", "action"},
    "FaultStruck": {"step", "action"},
    "UndoStarted": {"undo"},
    "UndoFinished": {"undo", "by"},
    "ClockStopped": {"clock", "step"},
    "Asked": {"step"},
    "Answered": {"step", "by"},
    "Noted": {"level"},
    "Objected": {"step"},
    "Scored": {"lines", "band", "light", "why"},
}
"""Texts that are words of k2run, paths, or what stands in a file that anybody may read."""
NUMBERS = (int, float, bool, Enum)


def holds_text(kind: Any) -> bool:
    if isinstance(kind, type) and not get_args(kind):
        return kind is not type(None) and not issubclass(kind, NUMBERS)
    return any(map(holds_text, get_args(kind))) if get_args(kind) else True


@pytest.mark.parametrize("event", Event.__subclasses__(), ids=lambda event: event.__name__)
def test_every_field_of_an_event_is_structure_or_rid_of_secrets(event: type[Event]) -> None:
    """A field that is added must be one or the other."""
    masked = {*event.said, *event.compared, *event.kept}
    structure = STRUCTURE.get(event.__name__, set())
    kinds = get_type_hints(event)
    texts = {name for name in event.__struct_fields__ if holds_text(kinds[name])} - {"at", "secrets"}
    assert masked | structure == texts
    assert not masked & structure


def test_an_undo_that_needs_a_secret_keeps_where_it_is_read_and_reads_it_again(
    bench: Bench, secret: Callable[..., None]
) -> None:
    secret("scratch-of-mine-77")
    text = """\
    runbook: 1
    kind: scenario
    name: fill
    title: A disk is filled
    inputs: {pw: {type: secret, default: "env:FIRST"}}
    sections:
      - name: Break
        steps:
          - {name: Fill, host.fill_disk: {size: 1MiB, name: "{{ pw }}"}}
    """
    assert bench.run(text).exit_code == 0
    folder = bench.store.find_run("last")
    journal = folder / "journal.jsonl"
    assert "scratch-of-mine-77" not in journal.read_text()
    planned = next(event for event in bench.journal() if isinstance(event, UndoPlanned))
    assert list(planned.secrets.values()) == [("env:FIRST", "plain")]
    lines = journal.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if '"undo_planned"' in line)
    journal.write_text("".join(lines[: at + 1]))
    scratch = next(bench.store.home.rglob("*scratch*"), None) or bench.store.stack_folder("none")
    left = scratch / "scratch-of-mine-77.bin" if scratch.is_dir() else scratch
    bench.store.mark_open("none", folder.name)
    assert undone(bench) == []
    assert not left.exists()


def test_a_secret_given_by_hand_is_asked_for_again_when_an_undo_needs_it(bench: Bench) -> None:
    text = """\
    runbook: 1
    kind: scenario
    name: fill
    title: A disk is filled
    inputs: {pw: {type: secret, required: true}}
    sections:
      - name: Break
        steps:
          - {name: Fill, host.fill_disk: {size: 1MiB, name: "{{ pw }}"}}
    """
    bench.run(text, extra={"pw": "given-by-hand-5"})
    folder = bench.store.find_run("last")
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if '"undo_planned"' in line)
    journal.write_text("".join(lines[: at + 1]))
    bench.store.mark_open("none", folder.name)
    assert "not kept with the run" in undone(bench)[0]
    assert undone(bench, pw="given-by-hand-5") == []


@pytest.mark.parametrize("given", ["abc", "   ", "a\n"])
def test_a_short_secret_is_refused_from_every_source(
    bench: Bench, secret: Callable[..., None], readiness: Callable[..., str], given: str
) -> None:
    steps = "- {name: Nothing, set: {a: 1}}\n"
    top = 'inputs: {pw: {type: secret, default: "env:FIRST"}}\n'
    secret(given)
    (bench.folder / "key").write_text(given)
    for where in ("env:FIRST", "file:key", f"cmd:printf '{given}'"):
        with pytest.raises(StackInvalid, match=r"shorter than 4|is empty"):
            bench.run(readiness(steps, top.replace("env:FIRST", where)))
    with pytest.raises(StackInvalid, match="input 'pw'"):
        bench.run(readiness(steps, top), extra={"pw": given})


def spellings(secret: str) -> dict[str, str]:
    """The forms in which programs, libraries and our own messages print a secret."""
    raw = secret.encode()
    return {
        "itself": secret,
        "json": json.dumps(secret)[1:-1],
        "json, not ascii": json.dumps(secret, ensure_ascii=False)[1:-1],
        "json twice": json.dumps(json.dumps(secret))[3:-3],
        "repr": repr(secret)[1:-1],
        "repr of bytes": repr(raw)[2:-1],
        "shell": shlex.quote(secret).strip("'"),
        "shell in json": json.dumps(shlex.quote(secret).strip("'"))[1:-1],
        "url": quote(secret, safe=""),
        "url, small letters": re.sub("%..", lambda code: code[0].lower(), quote(secret, safe="")),
        "form": quote_plus(secret),
        "html": html.escape(secret),
        "base64": base64.b64encode(raw).decode().rstrip("="),
        "base64, 1 before": base64.b64encode(b"x" + raw).decode()[2 : (1 + len(raw)) * 8 // 6],
        "base64, 2 before": base64.urlsafe_b64encode(b"xy" + raw).decode()[3 : (2 + len(raw)) * 8 // 6],
    }


ALPHABET = string.ascii_letters + string.digits + "\"'\\\t\n :/@%&<>#?$!{}[]=+-_.,;|~äßé漢😀"


def shapes(count: int, seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    for _ in range(count):
        length = chance.choice([4, 5, 8, 12, 20, 40, 64, 120, 200])
        text = "".join(chance.choice(ALPHABET) for _ in range(length))
        yield text if len(text.strip()) >= 4 and len(text.strip()) == len(text) else f"k{text.strip()}ey9"


def found(secret: str, text: str) -> list[str]:
    return [name for name, form in spellings(secret).items() if len(form) > 3 and form in text]


@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_any_secret_is_masked_under_every_encoding(count: int) -> None:
    for secret in shapes(count, seed=1):
        redact = Redactor()
        redact.add(secret)
        for name, form in spellings(secret).items():
            line = json.dumps({"a": f"before {form} after" + " …" * 1000}).encode()
            assert redact.may_be_in(line) or len(form) < 4, (secret, name)
            assert found(secret, redact(f"before {form} after")) == [], (secret, name)


@pytest.mark.parametrize("secret", ["\\" * 40 + "key", " key of nine words", "a\\\\b c\\d e f"])
@pytest.mark.parametrize("run", ["\\", " ", "&#92;", "%5c", "&#32;"])
def test_a_long_run_of_what_a_secret_begins_with_is_read_in_a_time_that_grows_with_it(secret: str, run: str) -> None:
    redact = Redactor()
    redact.add(secret)
    began = time.process_time()
    for rest in (secret, secret.strip()[-9:]):
        assert secret.strip() not in redact(run * 50_000 + "key words b c " + rest)
    assert time.process_time() - began < 3


def test_a_long_line_is_searched_for_any_of_the_secrets() -> None:
    redact = Redactor()
    redact.add("correct-horse-battery")
    redact.add("hunter2hunter2")
    filling = " …" * 1000
    said = ["hunter2hunter2", "correct-horse-battery", "nothing"] * 2
    lines = [json.dumps({"a": text + filling}).encode() for text in said]
    assert [redact.may_be_in(line) for line in lines] == [True, True, False] * 2
    redact.add("äöü!")  # has no part that every encoding leaves as it is
    assert redact.may_be_in(json.dumps({"a": "äöü!" + filling}).encode())
    assert not redact.may_be_in(json.dumps({"a": "äöü?" + filling}).encode())


def test_a_text_that_was_cut_inside_a_secret_shows_neither_end_of_it() -> None:
    redact = Redactor()
    redact.add("correct-horse-battery-staple-9")
    assert redact("the key is correct-horse-batt…") == f"the key is {MASK}…"
    assert redact("…attery-staple-9 was refused") == f"…{MASK} was refused"
    assert redact("the key is correct-horse-battles") == "the key is correct-horse-battles"


@pytest.mark.parametrize("secret", ["correct-horse-battery-staple-9", 'p@ss/w0rd "quoted" é & more'])
def test_an_excerpt_that_was_cut_inside_a_secret_shows_neither_end_of_it(secret: str) -> None:
    """Wherever it stands in a message: what else is said before and after it is no part of the secret."""
    redact = Redactor()
    redact.add(secret)
    pieces = [secret[at : at + 8] for at in range(len(secret) - 7)]
    for left in range(8, len(secret)):
        said = (
            f"first {beginning('x ' * 9 + secret + ' y' * 50, 18 + left)}, next 3",
            f"`it` exited 2: {ending('x ' * 50 + secret + ' y' * 9, 18 + left)} (again)",
        )
        for text in said:
            assert [piece for piece in pieces if piece in redact(text)] == [], text


def test_what_a_command_said_last_is_masked_also_where_it_was_cut(bench: Bench, secret: Callable[..., None]) -> None:
    secret("correct-horse-battery-staple-9")
    top = 'runbook: 1\nkind: readiness\nname: cut\ntitle: Cut\ninputs: {a: {type: secret, default: "env:FIRST"}}\n'
    steps = "".join(
        f'      - {{name: s{left}, shell.run: {{command: "printf %s%{QUOTED - left}s $A x >&2; exit 3", '
        'env: {A: "{{ a }}"}}, severity: info}\n'
        for left in range(8, 30)
    )
    bench.run(f"{top}sections:\n  - name: A\n    steps:\n{steps}")
    for step in bench.steps().values():
        assert "exited 3" in step.message
        assert "staple-9" not in step.message


def test_a_part_that_a_library_cuts_out_of_a_url_is_masked() -> None:
    redact = Redactor()
    redact.add("a:hunter2@b")
    assert redact("Port could not be cast to integer value as 'hunter2'") == (
        f"Port could not be cast to integer value as '{MASK}'"
    )
