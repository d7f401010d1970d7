"""Reads steps: exactly one action (or a block) and keywords."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import defstruct

from k2run.language.arguments import read_arguments
from k2run.language.expressions import is_fixed
from k2run.language.keywords import BLOCK as BLOCK_PLACE
from k2run.language.keywords import KEYWORDS, check_delegate, needed, place_of, refused
from k2run.language.model import Step
from k2run.language.problems import did_you_mean
from k2run.language.references import check_inputs, result_of
from k2run.language.vocabulary import SET, WORDS, ActionForm, Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.language.document import Trail
    from k2run.language.inputs import PointsReader
    from k2run.language.reading import Reading
    from k2run.language.references import References

BLOCK = ("block", "rescue", "always")
_WITH_RESULT = ("expect", "until", "failed_when", "figures", "points")
Failed = defstruct(
    "Failed", [("name", str), ("step", str), ("outcome", str), ("message", str), ("result", Any)], frozen=True
)
"""What a rescue knows of the step that failed, as `failed`."""
Tried = defstruct("Tried", [("outcome", str), ("message", str)], frozen=True)
"""What the `until` of a block sees of a try, as `result`."""
MAX_NESTING = 16
"""Blocks inside blocks."""


class StepReader:
    """Reads the steps of one runbook."""

    def __init__(self, reading: Reading, points: PointsReader, references: References) -> None:
        self.reading = reading
        self.points = points
        self.references = references
        self._forms: dict[str, ActionForm | None] = dict(WORDS)
        self._names: Sequence[str] = ()
        self._ids: set[str] = set()

    def read_all(  # noqa: PLR0913 - where the steps stand and what they may use
        self, value: Any, path: Trail, name: str, scope: Scope, category: str = "", *, apart: bool = False
    ) -> tuple[Step, ...]:
        """A list of steps, in order.

        Args:
            value: The list.
            path: Where it stands.
            name: The path of the list, as steps are addressed by it.
            scope: The names known before the first step; grows by what the steps register.
            category: The score category of steps that name none.
            apart: The steps run at once: none sees what another registers.
        """
        items = self.reading.listed(value, path, f"`{path[-1]}`")
        if isinstance(value, list) and not value:
            self.reading.problem("K213", f"`{path[-1]}` has no steps", path)
        steps, after = [], []
        for index, item in enumerate(items):
            seen = scope.apart() if apart else scope
            steps.append(self._step(item, (*path, index), f"{name}[{index}]", seen, category))
            after.append(seen)
        if apart:
            self._handed_on_once(steps, path)
            for seen in after:
                scope.shared.update(seen.shared)
        return tuple(steps)

    def _handed_on_once(self, steps: Sequence[Step], path: Trail) -> None:
        """Of two steps that run at once, chance would decide whose value a name has afterwards."""
        first: dict[str, int] = {}
        for index, step in enumerate(steps):
            for name in sorted(_handed_on(step)):
                if name in first:
                    line = self.reading.document.place((*path, first[name])).line
                    message = f"the step in line {line}, which runs at the same time, hands on `{name}` as well"
                    self.reading.problem("K212", message, (*path, index), hint="give one of them another name")
                first.setdefault(name, index)

    def _step(self, value: Any, path: Trail, address: str, scope: Scope, category: str) -> Step:
        reading = self.reading
        place = reading.document.place(path)
        if not isinstance(value, dict):
            reading.mapping(value, path, "a step")
            return Step(path=address, name=address, place=place, action="", args={})
        draft = Draft(self, value, path, address, scope, category)
        draft.read()
        step = Step(path=address, place=place, **draft.fields)
        check_delegate(reading, step, path)
        return step

    def form(self, name: str, path: Trail) -> ActionForm | None:
        """The action of that name; a problem when there is none."""
        if name not in self._forms:
            self._forms[name] = self.reading.vocabulary.find(name)
        form = self._forms[name]
        if form is None:
            self._unknown_action(name, path)
        return form

    def _unknown_action(self, name: str, path: Trail) -> None:
        adapter, dot, _ = name.partition(".")
        if not dot:
            hint = did_you_mean(name, (*KEYWORDS, *BLOCK, *WORDS))
            self.reading.problem("K202", f"a step has no keyword `{name}`", (*path, name), key=True, hint=hint)
            return
        names = self._names = self._names or self.reading.vocabulary.names()
        verbs = [known for known in names if known.startswith(f"{adapter}.")]
        hint = self.reading.near(name, names)
        adapters = () if verbs else dict.fromkeys(known.partition(".")[0] for known in names)
        expected = f"one of {', '.join(verbs)}" if verbs else f"an action of {', '.join(adapters)}"
        self.reading.problem(
            "K301",
            f"there is no action `{name}`",
            (*path, name),
            key=True,
            hint=hint,
            expected="" if hint else expected,
        )

    def note_id(self, value: str, path: Trail) -> None:
        """Two steps cannot have the same id."""
        if value in self._ids:
            self.reading.problem("K212", f"another step has the id `{value}`", path)
        self._ids.add(value)


class Draft:
    """One step while it is read.

    Attributes:
        fields: What is known of the step so far, by the names of `Step`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - where the step stands and what it may use
        self, reader: StepReader, value: dict[Any, Any], path: Trail, address: str, scope: Scope, category: str
    ) -> None:
        self.reader = reader
        self.reading = reader.reading
        self.value = value
        self.path = path
        self.address = address
        self.scope = scope
        self.category = category
        self.form: ActionForm | None = None
        self.result: Any = Any
        self.is_block = "block" in value
        self.fields: dict[str, Any] = {"action": "", "args": {}}

    def read(self) -> None:
        """Read everything, in the order in which names become known."""
        actions = [key for key in self.value if key not in KEYWORDS and key not in BLOCK]
        if "loop" in self.value:
            self.fields["loop"] = self._loop(self.value["loop"], (*self.path, "loop"))
            name = self.value.get("loop_var", "item")
            self.scope = self.scope.inside({name if isinstance(name, str) else "item": Any})
        if "vars" in self.value:
            self.fields["vars"], self.scope = read_vars(
                self.reading, self.value["vars"], (*self.path, "vars"), self.scope
            )
        self._action(actions)
        self._keywords()
        self._coherence()
        self.fields.setdefault("name", self.fields["action"] or "block")
        if self.is_block or any(key in self.value for key in BLOCK):
            self._block()
        self._hand_on()

    def _action(self, actions: list[Any]) -> None:
        forms = []
        for key in actions:
            if not isinstance(key, str):
                self.reading.problem(
                    "K204", f"the key {key} is not a text", (*self.path, key), key=True, hint="quote it"
                )
                continue
            form = self.reader.form(key, self.path)
            forms.append((key, form))
        known = [(key, form) for key, form in forms if form is not None]
        if not known:
            if not forms and not self.is_block and not any(key in self.value for key in BLOCK):
                hint = "write one, such as http.get: {service: api, path: /health}"
                self.reading.problem("K207", "this step has no action", self.path, hint=hint)
            return
        key, self.form = known[0]
        for other, _ in known[1:]:
            message = f"a step has one action: this one has `{key}` already"
            self.reading.problem("K208", message, (*self.path, other), key=True, hint="make it a step of its own")
        if self.is_block:
            message = "a block has no action of its own"
            self.reading.problem("K208", message, (*self.path, key), key=True, hint="move it into the block")
        self.fields["action"] = key
        self.result = Any if self.form is None or self.form.result is None else self.form.result
        self.fields["args"] = read_arguments(self.reading, self.form, self.value[key], (*self.path, key), self.scope)
        self.fields["fixed"] = is_fixed(self.fields["args"])
        self.fields["effect"] = self.form.effect
        self.reading.uses_stack = self.reading.uses_stack or needs_stack(self.form, self.fields["args"])
        if key == "run":
            self._runs((*self.path, key))

    def _runs(self, path: Trail) -> None:
        """The runbook that the step runs: its inputs fit, and what it hands back is known."""
        args = self.fields["args"]
        runbook = self.reader.references.runbook(args.get("runbook"), (*path, "runbook"))
        if runbook is None:
            return
        self.reading.uses_stack = self.reading.uses_stack or runbook.uses_stack
        self.result = result_of(runbook)
        check_inputs(self.reading, runbook, args.get("inputs") or {}, path)

    def _keywords(self) -> None:
        judged = self.scope.inside({"result": self.result, "attempt": int})
        for key, value in self.value.items():
            read = KEYWORDS.get(key)
            if read is not None and not (self.is_block and key == "until"):  # which sees what its steps register
                read(self, key, value, (*self.path, key), judged if key in _WITH_RESULT else self.scope)

    def _coherence(self) -> None:
        """Keywords that mean nothing without, or beside, another."""
        place = place_of(self.fields["action"], is_block=self.is_block)
        for key in self.value:
            others = needed(key)
            if others and not any(other in self.value for other in others):
                message = f"`{key}` has no effect without `{'` or `'.join(others)}`"
                self.reading.problem("K209", message, (*self.path, key), key=True)
            if refused(key, place):
                message = f"{place if place == BLOCK_PLACE else f'`{place}`'} takes no `{key}`"
                hint = "put it on a step inside" if place == BLOCK_PLACE else ""
                self.reading.problem("K209", message, (*self.path, key), key=True, hint=hint)

    def _block(self) -> None:
        if not self.is_block:
            key = next(key for key in BLOCK if key in self.value)
            self.reading.problem("K209", f"`{key}` has no effect without `block`", (*self.path, key), key=True)
        if self.path.count("block") + self.path.count("rescue") + self.path.count("always") >= MAX_NESTING:
            self.reading.problem("K209", f"blocks nest at most {MAX_NESTING} deep", self.path)
            return
        for key in BLOCK:
            if key in self.value:
                known = {"block": self._tried(), "rescue": {"failed": Failed}}.get(key, {})
                self.fields[key] = self.reader.read_all(
                    self.value[key],
                    (*self.path, key),
                    f"{self.address}.{key}",
                    self.scope.inside(known),
                    self.category,
                )
            if key == "block" and self.is_block and "until" in self.value:
                scope = self.scope.inside({"result": Tried, "attempt": int})
                KEYWORDS["until"](self, "until", self.value["until"], (*self.path, "until"), scope)

    def _tried(self) -> dict[str, Any]:
        """What the steps of a block that is tried again see."""
        return {"attempt": int} if {"until", "retries"} & self.value.keys() else {}

    def _hand_on(self) -> None:
        """What the steps after this one may use."""
        name = self.fields.get("register")
        if name:
            self.scope.shared[name] = list[self.result] if "loop" in self.value else self.result  # type: ignore[name-defined]
        if self.fields["action"] == SET.name:
            shapes = {name: self.reading.shape(value, self.scope) for name, value in self.fields["args"].items()}
            self.scope.shared.update(shapes)

    def _loop(self, value: Any, path: Trail) -> Any:
        reading = self.reading
        if isinstance(value, list):
            return tuple(reading.rendered(value, path, self.scope))
        if isinstance(value, dict):
            pairs = reading.rendered(value, path, self.scope)
            return tuple({"key": key, "value": item} for key, item in pairs.items())
        if isinstance(value, str) and "{{" in value:
            template = reading.template(value, path, self.scope)
            if len(template.parts) > 1:
                reading.problem("K204", "`loop` is one {{ expression }} and nothing beside it", path)
            elif counted := reading.counted(template, self.scope):
                reading.problem("K204", f"`loop` goes over a list or a mapping; this is {counted.value}", path)
            return template
        hint = f'write loop: "{{{{ {value} }}}}"' if isinstance(value, str) and value.isidentifier() else ""
        reading.problem("K204", "`loop` is a list, a mapping or one {{ expression }}", path, hint=hint)
        return ()


def _handed_on(step: Step) -> set[str]:
    """The names that a step, or one inside of it, gives to those after it."""
    own = {step.register} if step.register else set()
    if step.action == SET.name:
        own.update(step.args)
    return own.union(*map(_handed_on, (*step.block, *step.rescue, *step.always)))


def read_vars(reading: Reading, value: Any, path: Trail, scope: Scope) -> tuple[dict[str, Any], Scope]:
    """`vars` of a step: each may use those before it; returns them, and the scope with them in it."""
    made: dict[str, Any] = {}
    inner = Scope(scope.shared, dict(scope.own))
    for name, item in reading.mapping(value, path, "`vars`").items():
        reading.name(name, (*path, name), "a variable", key=True)
        made[name] = reading.rendered(item, (*path, name), inner)
        inner.own[name] = reading.shape(made[name], inner)
    return made, inner


def needs_stack(form: ActionForm, args: dict[str, Any]) -> bool:
    """Whether an action, called with these arguments, needs a connection of the stack."""
    needed = (getattr(connection, "needs_argument", "") for connection in form.connections)
    return any(not argument or argument in args for argument in needed)
