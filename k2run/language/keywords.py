"""The keywords of a step: how the value of each is read, and where each is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.language.model import Backoff, Severity
from k2run.language.reading import MAX_WORKERS
from k2run.language.references import looks_like_a_file
from k2run.language.vocabulary import ASSERT, RUN, SET, SKIP_SECTION, STOP, WAIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.document import Trail
    from k2run.language.scope import Scope
    from k2run.language.steps import Draft


_WHOLE = 100


def _name(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    text = draft.reading.text(value, path, "`name`")
    draft.fields[key] = draft.reading.rendered(text, path, scope)


def _condition(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    draft.fields[key] = draft.reading.expression(value, path, f"`{key}`", scope)


def _conditions(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    draft.fields[key] = draft.reading.conditions(value, path, f"`{key}`", scope)


def _time(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.duration(value, path, f"`{key}`")


def _pause(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    """A duration, or pauses that grow."""
    reading = draft.reading
    if not isinstance(value, dict):
        draft.fields[key] = reading.duration(value, path, f"`{key}`")
        return
    given = reading.fields(value, path, f"`{key}`", ("from", "to", "factor", "jitter"))
    for needed in {"from", "to"} - given.keys():
        reading.problem("K203", f"`{key}` needs `{needed}`", path, key=True, hint="write every: {from: 1s, to: 30s}")
    first, most = (
        reading.duration(given.get(name, "1s"), (*path, name) if name in given else path, f"`{name}`")
        for name in ("from", "to")
    )
    factor, jitter = given.get("factor", 2), str(given.get("jitter", "0%"))
    if not isinstance(factor, int | float) or isinstance(factor, bool) or factor < 1:
        reading.problem("K204", "`factor` is a number of at least 1", (*path, "factor"), hint="such as 2")
        factor = 2
    share = jitter.removesuffix("%")
    if not jitter.endswith("%") or not share.isdecimal() or int(share) > _WHOLE:
        reading.problem("K204", "`jitter` is a share from 0% to 100%", (*path, "jitter"), hint="such as 20%")
        share = "0"
    draft.fields[key] = Backoff(first=first, most=most, factor=float(factor), jitter=int(share) / _WHOLE)


def _flag(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.boolean(value, path, f"`{key}`")


def _count(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.whole(value, path, f"`{key}`", least=1)


def _workers(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.workers(value, path, MAX_WORKERS)


def _new_name(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.name(value, path, f"`{key}`")


def _id(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.text(value, path, "`id`")
    draft.reader.note_id(draft.fields[key], path)


def _severity(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.choice(Severity, value, path, "`severity`")


def _tags(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = frozenset(draft.reading.texts(value, path, "`tags`"))


def _requires(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.texts(value, path, "`requires`")
    draft.reading.uses_stack = True


def _worth(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    draft.fields[key] = draft.reader.points.read(value, path, scope, draft.category)


def _figures(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    reading = draft.reading
    written = reading.mapping(value, path, "`figures`")
    for name in written:
        reading.name(name, (*path, name), "a figure", key=True)
    draft.fields[key] = {
        name: reading.expression(item, (*path, name), f"the figure `{name}`", scope) for name, item in written.items()
    }
    reading.figures.update(dict.fromkeys(written, Any))


def _failure(draft: Draft, _key: str, value: Any, path: Trail, _scope: Scope) -> None:
    reading = draft.reading
    if isinstance(value, str):
        key = "recovery" if looks_like_a_file(value) else "hint"
        hint = {key: value}
        at = {key: path}
    else:
        hint = reading.fields(value, path, "`on_failure`", ("hint", "recovery"))
        at = {key: (*path, key) for key in hint}
    for key, item in hint.items():
        if key in ("hint", "recovery"):
            text = reading.text(item, at[key], f"`{key}`")
            draft.fields["on_failure" if key == "hint" else "recovery"] = text
            if key == "recovery":
                draft.reader.references.recovery(text, at[key])


def _stack(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    text = draft.reading.text(value, path, f"`{key}`")
    if "{{" in text:
        hint = "stacks are locked before the run begins, so they must be known then"
        draft.reading.problem("K204", f"`{key}` is the plain name of a stack", path, hint=hint)
    elif text:
        draft.reader.references.stack(text, path)
    draft.fields[key] = text


def _skip(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    """Read before the others."""


KEYWORDS: dict[str, Callable[[Draft, str, Any, Trail, Scope], None]] = {
    "name": _name,
    "id": _id,
    "when": _condition,
    "loop": _skip,
    "loop_var": _new_name,
    "parallel": _workers,
    "register": _new_name,
    "expect": _conditions,
    "until": _condition,
    "every": _pause,
    "retries": _count,
    "timeout": _time,
    "within": _time,
    "failed_when": _condition,
    "ignore_failure": _flag,
    "severity": _severity,
    "points": _worth,
    "figures": _figures,
    "tags": _tags,
    "vars": _skip,
    "requires": _requires,
    "on_failure": _failure,
    "no_log": _flag,
    "approve": _flag,
    "delegate": _stack,
}
"""Every keyword; an action is whatever else stands in a step."""


ACTION, BLOCK = "an action", "a block"
_LEAPS = (STOP.name, SKIP_SECTION.name)
PLACES = (ACTION, ASSERT.name, SET.name, WAIT.name, BLOCK, RUN.name, *_LEAPS)
"""What a step may be; in a loop and in a parallel section it accepts the same keywords."""

_REPEATING = ("until", "every", "retries")
_REFUSED: dict[str, frozenset[str]] = {
    BLOCK: frozenset({"register", "expect", "failed_when", "figures", "points", "no_log", "approve"}),
    RUN.name: frozenset({"approve", "delegate"}),
    **dict.fromkeys(
        _LEAPS, frozenset({*_REPEATING, "timeout", "approve", "expect", "failed_when", "figures", "points"})
    ),
}
_NEEDS = {"loop_var": ("loop",), "parallel": ("loop",), "every": ("until", "retries")}
"""Keywords that mean nothing without one of others."""


def place_of(action: str, *, is_block: bool) -> str:
    """What a step is, as `PLACES` calls it."""
    return BLOCK if is_block else action if action in PLACES else ACTION


def refused(keyword: str, place: str) -> bool:
    """Whether a keyword is a problem there."""
    return keyword in _REFUSED.get(place, frozenset())


def needed(keyword: str) -> tuple[str, ...]:
    """The keywords of which one must stand beside this one; empty when it stands alone."""
    return _NEEDS.get(keyword, ())


def table() -> list[tuple[str, ...]]:
    """For each keyword what it is at each place: accepted, accepted beside another keyword, or refused."""
    return [
        (f"`{keyword}`", *(_cell(keyword, place) for place in PLACES), _cell(keyword, ACTION), _cell(keyword, ACTION))
        for keyword in KEYWORDS
    ]


def _cell(keyword: str, place: str) -> str:
    if refused(keyword, place):
        return "K209"
    return f"with {' or '.join(f'`{each}`' for each in needed(keyword))}" if needed(keyword) else "yes"
