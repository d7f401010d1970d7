"""The JSON Schema of a runbook, made from what reads one: editors complete and check with it while one types."""

from __future__ import annotations

import re
from inspect import cleandoc
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import fields

from k2run.language.inputs import INPUT_TYPES
from k2run.language.json_schema import JsonSchema
from k2run.language.model import AfterFailure, Kind, Severity, Start, WhenLocked
from k2run.language.quantities import Duration, Notation, Rate, Size
from k2run.language.reading import MAX_WORKERS
from k2run.language.vocabulary import RUN, SKIP_SECTION, STOP, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msgspec.structs import FieldInfo

    from k2run.language.vocabulary import ActionForm, Vocabulary

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_QUANTITIES: dict[Any, dict[str, Any]] = {
    Duration: {
        "type": "string",
        "pattern": r"^(\s*\d+(\.\d+)?\s*(ms|min|s|m|h|d))+$|\{\{",
        "examples": ["30s", "1m30s"],
    },
    Size: {"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)?\s*([KMGT]i?B|kB|B)$|\{\{", "examples": ["10MiB"]},
    Rate: {"type": "string", "pattern": r"^\d+(\.\d+)?\s*/\s*(s|m|min|h)$|\{\{", "examples": ["500/s"]},
}
_TEMPLATE = {"type": "string", "pattern": r"\{\{"}
_ARGUMENTS = re.compile(r"^Args:\n((?:[ ]+.*\n|\n)+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^(\w+): (.+(?:\n[ ]+.+)*)", re.MULTILINE)

_TEXT = {"type": "string"}
_WORDS = {"type": "array", "items": _TEXT}
_NUMBER = {"type": "number", "minimum": 0}
_FLAG = {"type": "boolean"}
_NAME = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_]*$"}
_EXPRESSION = {"type": ["string", "boolean"], "description": "An expression, without {{ }}."}
_DURATION = {
    "type": "string",
    "pattern": r"^(\s*\d+(\.\d+)?\s*(ms|min|s|m|h|d))+$",
    "examples": ["30s", "1m30s", "500ms"],
}
_WORKERS = {"anyOf": [_FLAG, {"type": "integer", "minimum": 0, "maximum": MAX_WORKERS}]}


def runbook_schema(vocabulary: Vocabulary) -> dict[str, Any]:
    """What a runbook may look like, with the arguments of every action of a vocabulary.

    Args:
        vocabulary: The actions; those of other adapters are let through, since nothing is known of them here.
    """
    forms = [form for name in vocabulary.names() if (form := vocabulary.find(name)) is not None]
    return {
        "$schema": DIALECT,
        "title": "k2run runbook",
        "description": "What must be true of a stack, how fast, and what to do when it is not.",
        "type": "object",
        "required": ["runbook", "kind", "sections"],
        "additionalProperties": False,
        "properties": _runbook(),
        "$defs": {
            "expression": _EXPRESSION,
            "expressions": {
                "anyOf": [_ref("expression"), {"type": "array", "minItems": 1, "items": _ref("expression")}]
            },
            "duration": _DURATION,
            "words": {"anyOf": [_TEXT, _WORDS]},
            "vars": {"type": "object", "propertyNames": _NAME},
            "steps": {"type": "array", "minItems": 1, "items": _ref("step")},
            "input": _input(),
            "points": _points(),
            "score": _score(),
            "section": _closed(_section(), required=["steps"]),
            "step": _step(forms),
            **_actions(forms),
        },
    }


def _runbook() -> dict[str, Any]:
    return {
        "runbook": _said({"const": 1}, "Version of the language."),
        "kind": _said({"enum": [kind.value for kind in Kind]}, "What the runbook is for."),
        "name": _said(_TEXT, "Name of the runbook; the file's name when missing."),
        "title": _said(_TEXT, "What people call it."),
        "description": _said(_TEXT, "What it does and why, in a few sentences."),
        "owner": _said(_TEXT, "Who answers for it."),
        "stack": _said(
            _TEXT,
            "The stack it runs on; when missing, the only one beside the working directory, or `sandbox`.",
        ),
        "platform": _said(
            _TEXT, "Of a recovery: the `platform` of the stacks that it is for; all stacks when missing."
        ),
        "inputs": _said(
            {"type": "object", "propertyNames": _NAME, "additionalProperties": _ref("input")}, "Set with -e."
        ),
        "vars": _said(_ref("vars"), "Values for all expressions; each may use those above it."),
        "requires": _said(_ref("words"), "Services; where one is absent the runbook is not applicable."),
        "objective": _said(_objective(), "What the whole run promises."),
        "timeout": _said(_ref("duration"), "The hard limit of the whole run; `always` and undos come after it."),
        "score": _said(_ref("score"), "How steps turn into points, and points into go or no-go."),
        "steady_state": _said(_ref("steps"), "What must hold before a fault, and again after it."),
        "preconditions": _said(
            _ref("steps"), "What must be so for the symptoms to tell anything; it holds on a healthy stack too."
        ),
        "symptoms": _said(_ref("steps"), "How a recovery runbook recognises its own failure."),
        "sections": _said(
            {"type": "array", "minItems": 1, "items": _ref("section")}, "The steps, in groups, in order."
        ),
        "always": _said(_ref("steps"), "Steps that run whatever happened."),
        "outputs": _said(
            {"type": "object", "propertyNames": _NAME, "additionalProperties": _ref("expression")},
            "Values that a runbook which runs this one sees as `result.outputs`.",
        ),
        "tags": _said(_ref("words"), "Tags of the whole runbook."),
        "schedule": _said({"anyOf": [_schedule(), {"type": "array", "items": _schedule()}]}, "When it runs by itself."),
        "alerts": _said({"type": "array", "items": _alert()}, "Alerts that it answers."),
    }


def _section() -> dict[str, Any]:
    return {
        "name": _said(_TEXT, "What the section is about."),
        "steps": _said(_ref("steps"), "What is done, in order."),
        "when": _said(_ref("expression"), "The section is left out when this is false."),
        "within": _said(_ref("duration"), "The time budget of the section: an objective, not a limit."),
        "timeout": _said(_ref("duration"), "The hard limit of all its steps together."),
        "parallel": _said(_WORKERS, "How many steps run at once; true for all."),
        "clock": _said({"enum": ["rto", "detect"]}, "The clock that stops at its end: recovered, or first seen."),
        "category": _said(_TEXT, "Score category of the steps that name none."),
        "after_failure": _said({"enum": [way.value for way in AfterFailure]}, "What a failed critical step does."),
        "tags": _said(_ref("words"), "Tags of all its steps."),
        "vars": _said(_ref("vars"), "Values for this section and those after it."),
        "requires": _said(_ref("words"), "Services; where one is absent the section is not applicable."),
    }


def _keywords() -> dict[str, Any]:
    figures = {"type": "object", "propertyNames": _NAME, "additionalProperties": _ref("expression")}
    pauses = _closed(
        {"from": _ref("duration"), "to": _ref("duration"), "factor": {"type": "number", "minimum": 1}, "jitter": _TEXT},
        required=["from", "to"],
    )
    failure = _closed({"hint": _TEXT, "recovery": _TEXT})
    return {
        "name": _said(_TEXT, "What the step is called; may have {{ }} in it."),
        "id": _said(_TEXT, "A name for other tools to refer to."),
        "when": _said(_ref("expression"), "The step is left out when this is false."),
        "loop": _said({"type": ["array", "object", "string"]}, "A list, a mapping or one {{ expression }} to go over."),
        "loop_var": _said(_NAME, "Name of the item of a loop; `item` when missing."),
        "parallel": _said(_WORKERS, "How many turns of the loop run at once."),
        "register": _said(_NAME, "The name under which later steps know the result."),
        "expect": _said(_ref("expressions"), "What must be true of `result`."),
        "until": _said(
            _ref("expression"), "Repeat until this is true of `result`; on a block, of what its steps register."
        ),
        "every": _said({"anyOf": [_ref("duration"), pauses]}, "Pause between two attempts, or pauses that grow."),
        "retries": _said({"type": "integer", "minimum": 1}, "How often to try again."),
        "timeout": _said(_ref("duration"), "The hard limit of one call, or of all that a block or a runbook does."),
        "within": _said(_ref("duration"), "The objective of the step: met or missed, apart from passed or failed."),
        "failed_when": _said(_ref("expression"), "The step fails when this is true of `result`."),
        "ignore_failure": _said(_FLAG, "A failure is recorded and changes nothing."),
        "severity": _said({"enum": [weight.value for weight in Severity]}, "Only a critical step fails the run."),
        "points": _said(_ref("points"), "What the step is worth in the score."),
        "figures": _said(figures, "Named numbers to record from `result`."),
        "tags": _said(_ref("words"), "For --tags and --skip-tags."),
        "vars": _said(_ref("vars"), "Values for this step alone."),
        "requires": _said(_ref("words"), "Services; where one is absent the step is not applicable."),
        "on_failure": _said({"anyOf": [_TEXT, failure]}, "A hint, or a recovery runbook to offer."),
        "approve": _said(_FLAG, "A person approves first; true for destructive actions unless it is false."),
        "delegate": _said(_TEXT, "Another stack on which this step is done, by name or file."),
        "no_log": _said(_FLAG, "Keep arguments and result out of the record."),
        "block": _said(_ref("steps"), "Steps that stand and fall together."),
        "rescue": _said(_ref("steps"), "Run when a step of the block fails."),
        "always": _said(_ref("steps"), "Run after the block whatever happened."),
    }


def _step(forms: list[ActionForm]) -> dict[str, Any]:
    names = [form.name for form in (*forms, *WORDS.values())]
    adapters = "|".join(sorted({re.escape(form.name.partition(".")[0]) for form in forms}))
    return {
        "type": "object",
        "description": "One action and keywords, or a block.",
        "additionalProperties": False,
        "properties": {**_keywords(), **{name: _ref(f"action:{name}") for name in names}},
        "patternProperties": {
            rf"^(?!({adapters})\.)[a-z_]\w*\.[a-z_]\w*$": {"description": "An action of another adapter."}
        },
    }


def _actions(forms: list[ActionForm]) -> dict[str, Any]:
    """A definition for each action, and for each struct that one of them takes."""
    kinds = [field.type for form in forms for field in fields(form.arguments)]
    made, components = msgspec.json.schema_components(kinds, schema_hook=_quantity, ref_template="#/$defs/{name}")
    schemas = iter(made)
    actions = {f"action:{form.name}": _action(form, schemas) for form in forms}
    return {**actions, **_own_words(), **{name: _dedented(components[name]) for name in sorted(components)}}


def _dedented(component: dict[str, Any]) -> dict[str, Any]:
    """A struct's schema with its docstring as Python 3.13 has it; older ones leave it indented as in the source."""
    if "description" not in component:
        return component
    return {**component, "description": cleandoc(component["description"])}


def _own_words() -> dict[str, Any]:
    values = {"type": "object", "propertyNames": _NAME, "minProperties": 1}
    again = {"runbook": _TEXT, "inputs": {"type": "object"}}
    return {
        "action:assert": _closed(
            {"that": _ref("expressions")}, required=["that"], says="All expressions must be true."
        ),
        "action:wait": _closed({"for": _QUANTITIES[Duration]}, required=["for"], says="Do nothing for a while."),
        "action:set": {**values, "description": "Give names to values."},
        f"action:{RUN.name}": _closed(again, required=["runbook"], says="Run another runbook; its result is a value."),
        f"action:{STOP.name}": _closed(
            {"because": _said(_TEXT, "The verdict."), "passed": _said(_FLAG, "Not a failure.")},
            required=["because"],
            says="End the run here; `always` and undos still run.",
        ),
        f"action:{SKIP_SECTION.name}": {
            **_closed({"because": _said(_TEXT, "Why.")}, says="Leave out what is left of this section."),
            "type": ["object", "null"],
        },
    }


def _action(form: ActionForm, schemas: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of one action: each may also be computed, none may be unknown, all of them are described."""
    doc = str(getattr(form, "doc", ""))
    words = described_arguments(doc)
    arguments = fields(form.arguments)
    required = [field.encode_name for field in arguments if field.required]
    properties = {
        field.encode_name: _argument(field, next(schemas), words.get(field.encode_name, "")) for field in arguments
    }
    made = _closed(properties, required=required, says=" ".join(doc.split("\n\n", 1)[0].split()))
    return made if required else {**made, "type": ["object", "null"]}


def _argument(field: FieldInfo, schema: dict[str, Any], words: str) -> dict[str, Any]:
    """A value, or a template that gives one."""
    told: dict[str, Any] = {"description": words} if words else {}
    if field.default not in (msgspec.NODEFAULT, None, ""):
        quantity = isinstance(field.default, Duration | Size | Rate)
        told["default"] = str(field.default) if quantity else msgspec.to_builtins(field.default)
    if schema in ({}, {"type": "string"}, *_QUANTITIES.values()):
        return {**schema, **told}
    return {"anyOf": [schema, _TEMPLATE], **told}


def described_arguments(doc: str) -> dict[str, str]:
    """What a docstring says of each argument."""
    block = _ARGUMENTS.search(f"{doc}\n")
    if block is None:
        return {}
    return {name: " ".join(words.split()) for name, words in _ARGUMENT.findall(dedent(block[1]))}


def _quantity(kind: type) -> dict[str, Any]:
    if kind in _QUANTITIES:
        return dict(_QUANTITIES[kind])
    if kind is JsonSchema:
        return {"type": ["object", "string"], "description": JsonSchema.says, "examples": [JsonSchema.example]}
    if issubclass(kind, Notation):
        return {"type": "string", "pattern": kind.pattern + r"|\{\{", "examples": [kind.example]}
    raise NotImplementedError(kind)


def _input() -> dict[str, Any]:
    keys: dict[str, Any] = {
        "type": _said({"enum": list(INPUT_TYPES)}, "What may be given; `string` when missing."),
        "default": _said({}, "Taken when none is given."),
        "required": _said(_FLAG, "It must be given."),
        "help": _said(_TEXT, "What it is for, with its unit."),
        "choices": _said(_WORDS, "What it may be."),
    }
    return _closed(keys)


def _objective() -> dict[str, Any]:
    return _closed(
        {
            "within": _said(_ref("duration"), "The whole run, waits included."),
            "rto": _said(_ref("duration"), "Recovery time: from the first fault until steady state holds again."),
            "rpo": _said(_NUMBER, "Recovery point: the most that the figure `rpo` may be."),
            "figures": _said(_ref("expressions"), "Bounds on recorded figures."),
        }
    )


def _schedule() -> dict[str, Any]:
    keys = {
        "cron": _said(_TEXT, "Five fields: minute hour day month weekday."),
        "every": _said(_ref("duration"), "An interval."),
        "at": _said(_TEXT, "A time relative to an event of the calendar: `1 day before demo`."),
        "timezone": _said(_TEXT, "Such as Europe/Berlin; UTC when missing."),
        "stack": _said(_TEXT, "The stack it runs on; the runbook's own when missing."),
        "inputs": _said({"type": "object"}, "Values of inputs."),
        "tags": _said(_ref("words"), "Only steps with one of these tags."),
        "jitter": _said(_ref("duration"), "It starts up to this much later than due."),
        "quiet": _said(_TEXT, "Hours in which it is not started: 22:00-06:00."),
        "when_locked": _said(
            {"enum": [way.value for way in WhenLocked]},
            "When another run holds the stack; `at` queues by default, others skip.",
        ),
        "catch_up": _said(_ref("duration"), "How late a run may still be made up for after a downtime."),
    }
    return _closed(keys)


def _alert() -> dict[str, Any]:
    keys = {
        "labels": _said({"type": "object", "additionalProperties": _TEXT}, "A regular expression for each label."),
        "start": _said({"enum": [way.value for way in Start]}, "At once, or after approval."),
        "stack": _said(_TEXT, "The stack it runs on; the runbook's own when missing."),
        "inputs": _said({"type": "object"}, "Values of inputs; templates see `labels` and `annotations`."),
    }
    return _closed(keys, required=["labels"])


def _points() -> dict[str, Any]:
    award = {"type": ["string", "number"], "examples": ["15 when result.up == 10"]}
    awards = {"anyOf": [award, {"type": "array", "minItems": 1, "items": award}]}
    keys = {
        "category": _said(_TEXT, "The category it counts for; that of its section when missing."),
        "max": _said(_NUMBER, "The most it may earn; the highest award when missing."),
        "award": _said(awards, "`POINTS when EXPRESSION`, the first that holds counts; bare points hold always."),
    }
    return {"anyOf": [_NUMBER, _closed(keys)]}


def _score() -> dict[str, Any]:
    category = {"anyOf": [_NUMBER, _closed({"title": _TEXT, "points": _NUMBER}, required=["points"])]}
    light = {"enum": ["green", "yellow", "red"]}
    band = _closed({"at_least": _NUMBER, "name": _TEXT, "light": light}, required=["at_least", "name"])
    keys = {
        "categories": _said({"type": "object", "additionalProperties": category}, "Points of each, with its title."),
        "bands": _said({"type": "array", "items": band}, "Names and lights of scores, each from a least score on."),
        "go": _said(_NUMBER, "The least score at which the run is a go."),
        "coverage": _said(
            _NUMBER, "The least percentage of the points that need no person that a go must have judged."
        ),
    }
    return _closed(keys, required=["categories"])


def _closed(properties: dict[str, Any], *, required: list[str] | None = None, says: str = "") -> dict[str, Any]:
    """A mapping with none but these keys."""
    made: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        made["required"] = required
    return {"description": says, **made} if says else made


def _said(schema: dict[str, Any], words: str) -> dict[str, Any]:
    return {**schema, "description": words}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
