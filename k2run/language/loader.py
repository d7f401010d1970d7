"""Load a runbook with its sections: a checked `Runbook`, or all its problems; files of other tools are recognised."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.errors import RunbookInvalid
from k2run.files import name_objection
from k2run.language.document import Document, compose, read_text, without_collection
from k2run.language.inputs import PointsReader, read_inputs, read_objective, read_score, shape_of
from k2run.language.keywords import KEYWORDS, check_steady_state, check_symptoms
from k2run.language.model import AfterFailure, Kind, Objective, Runbook, Section
from k2run.language.problems import did_you_mean, ordered
from k2run.language.reading import Reading
from k2run.language.references import References
from k2run.language.step_reader import StepReader, read_vars
from k2run.language.vocabulary import FACTS, Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.document import Trail
    from k2run.language.expressions import Expression
    from k2run.language.model import Input
    from k2run.language.problems import Problem
    from k2run.language.vocabulary import Vocabulary

VERSION = 1
RUNBOOK_KEYS = (
    *("runbook", "kind", "name", "title", "description", "owner", "stack", "platform", "inputs", "vars"),
    *("requires", "objective"),
    *(
        "score",
        "steady_state",
        "preconditions",
        "symptoms",
        "sections",
        "always",
        "outputs",
        "tags",
        "schedule",
        "alerts",
        "timeout",
    ),
)
_NEEDED = ("runbook", "kind", "sections")


def load_runbook(path: Path, vocabulary: Vocabulary, *, home: Path | None = None) -> Runbook:
    """Read and check a runbook.

    Args:
        path: Its file.
        vocabulary: The actions it may use.
        home: The folder in which the files it names are looked for; its own when not given (a copy of a runbook, kept
            with its run, still names the files beside the original).

    Raises:
        UsageError: There is no such file.
        RunbookInvalid: It has problems; all of them are in the error.
    """
    return parse_runbook(read_text(path), str(path), vocabulary, home=home or path.parent)


def parse_runbook(text: str, file: str, vocabulary: Vocabulary, *, home: Path | None = None) -> Runbook:
    """Check the text of a runbook.

    Args:
        text: The YAML text.
        file: Where it comes from.
        vocabulary: The actions it may use.
        home: The folder in which the files it names are looked for; without one they are not checked.

    Raises:
        RunbookInvalid: It has problems; all of them are in the error.
    """
    with without_collection():
        runbook, problems = _read(text, file, vocabulary, home)
    if problems:
        raise RunbookInvalid(ordered(problems))
    return runbook


def _read(text: str, file: str, vocabulary: Vocabulary, home: Path | None) -> tuple[Runbook, list[Problem]]:
    """The runbook and its problems; the tree of YAML nodes is gone when this returns."""
    reader = _RunbookReader(compose(text, file), vocabulary, home)
    return reader.read(), reader.problems


class _RunbookReader:
    """Reads one document as a runbook."""

    def __init__(self, document: Document, vocabulary: Vocabulary, home: Path | None) -> None:
        self._document = document
        self._reading = Reading(document, vocabulary, home)
        self._points = PointsReader(self._reading)
        self._home = home
        self._references = References(self._reading, home, load_runbook)
        self._steps = StepReader(self._reading, self._points, self._references)

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong."""
        return [*self._document.problems, *self._reading.problems]

    def read(self) -> Runbook:
        """The runbook, as far as it can be read."""
        reading = self._reading
        fields = self._fields()
        kind = reading.choice(Kind, fields["kind"], ("kind",), "`kind`") if "kind" in fields else Kind.READINESS
        inputs = read_inputs(reading, fields.get("inputs", {}), ("inputs",))
        scope = Scope({**dict.fromkeys(FACTS, Any), **{entry.name: shape_of(entry) for entry in inputs}})
        variables, inner = read_vars(reading, fields.get("vars", {}), ("vars",), scope)
        scope = Scope({**scope.shared, **inner.own})
        requires = reading.texts(fields.get("requires", []), ("requires",), "`requires`")
        parts = self._parts(fields, scope, kind)
        outputs = self._outputs(fields.get("outputs", {}), scope)
        score = read_score(reading, fields["score"], ("score",)) if "score" in fields else None
        self._points.check(score)
        objective = (
            read_objective(reading, fields["objective"], ("objective",)) if "objective" in fields else Objective()
        )
        name = self._text(fields, "name", Path(self._document.file).stem)
        if wrong := name_objection(name):
            path = ("name",) if "name" in fields else ()
            reading.problem("K210", f"{name!r} cannot be the name of a runbook: {wrong}", path, hint="give it a `name`")
        return Runbook(
            kind=kind,
            name=name,
            title=self._text(fields, "title", name),
            path=self._document.file,
            digest=sha256(self._document.text.encode("utf-8", "surrogatepass")).hexdigest(),
            source=self._document.text,
            description=self._text(fields, "description", ""),
            owner=self._text(fields, "owner", ""),
            stack=self._text(fields, "stack", ""),
            platform=self._text(fields, "platform", ""),
            inputs=inputs,
            vars=variables,
            requires=requires,
            objective=objective,
            timeout=reading.duration(fields["timeout"], ("timeout",), "`timeout`") if "timeout" in fields else None,
            outputs=outputs,
            home=str(self._home or ""),
            runs=self._references.runs,
            score=score,
            tags=frozenset(reading.texts(fields.get("tags", []), ("tags",), "`tags`")),
            uses_stack=reading.uses_stack or bool(requires),
            **parts,
            **self._triggers(fields, inputs),
        )

    def _parts(self, fields: dict[str, Any], scope: Scope, kind: Kind) -> dict[str, Any]:
        """All that has steps."""
        reading = self._reading
        apart = ("preconditions", "symptoms")  # looked at apart from the run
        parts: dict[str, Any] = {key: self._listed_steps(key, fields, scope.apart()) for key in apart}
        parts["steady_state"] = self._listed_steps("steady_state", fields, scope)
        check_symptoms(reading, parts["symptoms"], ("symptoms",))
        check_steady_state(reading, parts["steady_state"], ("steady_state",))
        sections = SectionReader(reading, self._steps, self._points, kind)
        parts["sections"] = sections.read_all(fields["sections"], ("sections",), scope) if "sections" in fields else ()
        parts["always"] = self._listed_steps("always", fields, scope)
        return parts

    def _fields(self) -> dict[str, Any]:
        reading, data = self._reading, self._document.data
        foreign = recognised(data, self._document.file)
        if foreign is not None:
            what, hint = foreign
            reading.problem("K201", what, (), hint=hint)
            return {}
        if not isinstance(data, dict):
            hint = "a runbook begins with `runbook: 1` and `kind: …`"
            what = "the file is empty" if data is None else "a runbook is a mapping"
            reading.problem("K201", what, (), hint=hint)
            return {}
        fields = reading.mapping(data, (), "a runbook")
        for key in fields:
            if key not in RUNBOOK_KEYS:
                self._unknown(key)
        missing = [key for key in _NEEDED if key not in fields]
        if missing:
            hint = f"kind: one of {', '.join(Kind)}" if "kind" in missing else ""
            reading.problem("K203", f"a runbook needs `{'`, `'.join(missing)}`", (), hint=hint)
        if "runbook" in fields and (fields["runbook"] != VERSION or isinstance(fields["runbook"], bool)):
            reading.problem("K211", "this version of the language is unknown", ("runbook",), expected="runbook: 1")
        return fields

    def _unknown(self, key: str) -> None:
        if key == "steps":
            hint = "put them into a section: sections: [{name: …, steps: […]}]"
            self._reading.problem("K202", "a runbook has no key `steps`", (key,), key=True, hint=hint)
        else:
            self._reading.unknown_key(key, (), "a runbook", RUNBOOK_KEYS)

    def _listed_steps(self, key: str, fields: dict[str, Any], scope: Scope) -> Any:
        return self._steps.read_all(fields[key], (key,), key, scope) if key in fields else ()

    def _triggers(self, fields: dict[str, Any], inputs: tuple[Input, ...]) -> dict[str, Any]:
        """What starts the runbook by itself."""
        if not {"schedule", "alerts"} & fields.keys():
            return {}
        from k2run.language.triggers import TRIGGERS, unknown_inputs

        found = {key: read(self._reading, fields[key], (key,)) for key, read in TRIGGERS.items() if key in fields}
        for key, triggers in found.items():
            unknown_inputs(self._reading, key, triggers, [entry.name for entry in inputs])
        return found

    def _outputs(self, value: Any, scope: Scope) -> dict[str, Expression]:
        reading = self._reading
        written = reading.mapping(value, ("outputs",), "`outputs`")
        for name in written:
            reading.name(name, ("outputs", name), "an output", key=True)
        return {
            name: reading.expression(item, ("outputs", name), f"the output `{name}`", scope)
            for name, item in written.items()
        }

    def _text(self, fields: dict[str, Any], key: str, default: str) -> str:
        return self._reading.text(fields[key], (key,), f"`{key}`") if key in fields else default


_PLAY = frozenset({"tasks", "roles", "pre_tasks", "post_tasks", "import_playbook", "ansible.builtin.import_playbook"})
_COMPOSE = frozenset({"image", "build", "container_name", "depends_on", "ports", "volumes", "environment"})
_BESIDE_METHOD = frozenset({"rollbacks", "title", "description", "configuration", "secrets", "contributions"})


def recognised(data: Any, file: str) -> tuple[str, str] | None:
    """What a file is, and what to do with it; None for what may be meant as a runbook."""
    if isinstance(data, list):
        return _PLAYBOOK if any(_is_play(item) for item in data) else None
    if not isinstance(data, dict) or "runbook" in data:
        return None
    found = next((kind for kind, fits in _KINDS if fits(data)), "")
    return (f"this is {found}", _WAYS_OUT[found].format(file=file)) if found else None


def _is_play(item: Any) -> bool:
    return isinstance(item, dict) and ("hosts" in item or bool(_PLAY & item.keys()))


def _is_experiment(data: dict[str, Any]) -> bool:
    return "steady-state-hypothesis" in data or ("method" in data and bool(_BESIDE_METHOD & data.keys()))


def _is_stack(data: dict[str, Any]) -> bool:
    return data.get("stack") == 1 and "kind" not in data


def _is_compose(data: dict[str, Any]) -> bool:
    services = data.get("services")
    return isinstance(services, dict) and any(
        isinstance(one, dict) and _COMPOSE & one.keys() for one in services.values()
    )


def _is_manifest(data: dict[str, Any]) -> bool:
    return "apiVersion" in data and "kind" in data


_KINDS: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("an experiment of Chaos Toolkit", _is_experiment),
    ("a stack file", _is_stack),
    ("a compose file", _is_compose),
    ("a manifest of Kubernetes", _is_manifest),
)
_WAYS_OUT = {
    "an experiment of Chaos Toolkit": "turn it into a runbook: k2run import chaos {file}",
    "a stack file": "put it into a folder called `stacks`, and give it with --stack",
    "a compose file": "a stack file names it (compose: {file}), and its services with run: docker; see docs/compose.md",
    "a manifest of Kubernetes": "k2run applies none; a step can: shell.run: {{command: [kubectl, apply, -f, {file}]}}",
}
_PLAYBOOK = (
    "this is a playbook of Ansible",
    "write its checks as steps (k2run new), or run it in one: shell.run: {command: [ansible-playbook, FILE]}",
)


SECTION_KEYS = (
    "name",
    "steps",
    "when",
    "within",
    "timeout",
    "parallel",
    "clock",
    "category",
    "after_failure",
    "tags",
    "vars",
    "requires",
)
CLOCKS = ("rto", "detect")
_STOPPING = (Kind.SCENARIO, Kind.RECOVERY)
"""Kinds of which a failed section ends the run: what follows would break or repair the wrong thing."""


class SectionReader:
    """Reads sections in order; the runbook's kind says what a failure does unless a section says it."""

    def __init__(self, reading: Reading, steps: StepReader, points: PointsReader, kind: Kind) -> None:
        self._reading = reading
        self._steps = steps
        self._points = points
        self._after_failure = AfterFailure.END_RUN if kind in _STOPPING else AfterFailure.CONTINUE

    def read_all(self, value: Any, path: Trail, scope: Scope) -> tuple[Section, ...]:
        """The `sections` of a runbook."""
        items = self._reading.listed(value, path, "`sections`")
        if isinstance(value, list) and not value:
            self._reading.problem("K213", "`sections` is empty", path)
        return tuple(self._section(item, (*path, index), index, scope) for index, item in enumerate(items))

    def _section(self, value: Any, path: Trail, index: int, scope: Scope) -> Section:
        reading = self._reading
        fields = self._fields(value, path)
        address = f"sections[{index}]"
        category = self._points.category(fields["category"], (*path, "category")) if "category" in fields else ""
        variables = self._vars(fields.get("vars"), (*path, "vars"), scope)
        steps = fields.get("steps", [])
        count = len(steps) if isinstance(steps, list) else 0
        workers = reading.workers(fields.get("parallel", 0), (*path, "parallel"), count)
        return Section(
            path=address,
            name=reading.text(fields.get("name", f"Section {index + 1}"), (*path, "name"), "`name`"),
            place=reading.document.place(path),
            when=(reading.expression(fields["when"], (*path, "when"), "`when`", scope) if "when" in fields else None),
            within=reading.duration(fields["within"], (*path, "within"), "`within`") if "within" in fields else None,
            timeout=(
                reading.duration(fields["timeout"], (*path, "timeout"), "`timeout`") if "timeout" in fields else None
            ),
            parallel=workers,
            clock=self._clock(fields.get("clock", ""), (*path, "clock")),
            category=category,
            after_failure=(
                reading.choice(AfterFailure, fields["after_failure"], (*path, "after_failure"), "`after_failure`")
                if "after_failure" in fields
                else self._after_failure
            ),
            tags=frozenset(reading.texts(fields.get("tags", []), (*path, "tags"), "`tags`")),
            vars=variables,
            requires=self._requires(fields.get("requires", []), (*path, "requires")),
            steps=(
                self._steps.read_all(steps, (*path, "steps"), f"{address}.steps", scope, category, apart=workers > 1)
                if "steps" in fields
                else ()
            ),
        )

    def _fields(self, value: Any, path: Trail) -> dict[str, Any]:
        fields = self._reading.mapping(value, path, "a section")
        for key in fields:
            if key in SECTION_KEYS:
                continue
            if key in KEYWORDS or "." in key:
                hint = "it belongs to a step: put it below `steps`"
                self._reading.problem("K202", f"a section has no key `{key}`", (*path, key), key=True, hint=hint)
            else:
                self._reading.unknown_key(key, path, "a section", SECTION_KEYS)
        if isinstance(value, dict) and "steps" not in fields:
            self._reading.problem("K203", "a section needs `steps`", path)
        return fields

    def _vars(self, value: Any, path: Trail, scope: Scope) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, item in self._reading.mapping(value or {}, path, "`vars`").items():
            self._reading.name(name, (*path, name), "a variable", key=True)
            made[name] = self._reading.rendered(item, (*path, name), scope)
            scope.shared[name] = self._reading.shape(made[name], scope)
        return made

    def _clock(self, value: Any, path: Trail) -> str:
        if value and value not in CLOCKS:
            hint = did_you_mean(str(value), CLOCKS) or "there are rto (recovered) and detect (first seen)"
            self._reading.problem("K205", f"there is no clock `{value}`", path, hint=hint)
        return str(value)

    def _requires(self, value: Any, path: Trail) -> tuple[str, ...]:
        found = self._reading.texts(value, path, "`requires`")
        self._reading.uses_stack = self._reading.uses_stack or bool(found)
        return found
