"""A stack declares roles; runbooks name them, and what is not declared is "cannot say"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.engine.request import check_protected
from k2run.errors import Inapplicable, K2runError, Protected
from k2run.language.loader import load_runbook
from k2run.language.problems import render
from k2run.stack.model import ROLES
from k2run.stack.stack import load_stack
from k2run.stack.validation import problems_of, stack_schema

if TYPE_CHECKING:
    from k2run.stack.stack import Stack

ROOT = Path(__file__).parents[2]
SERVICE = "services: {consumer: {metrics: 'http://127.0.0.1:1/metrics'}}"
DECLARED = """\
vars: {name: orders}
roles:
  topic: "{{ name }}"
  fresh: 30s
  format: avro
  probe: {template: trade, key: A}
  level: {service: consumer, metric: shop_level}
  limit: 5m
"""
WRONG = {
    "roles: [topic]": ("K203", 8, ""),
    "roles: {topic: }": ("K202", 9, "leave the role out"),
    "roles: {fresh: soon}": ("K203", 16, "Age of the newest row"),
    "roles: {format: xml}": ("K203", 17, "written"),
    "roles: {level: k2_level}": ("K203", 16, "Level of degradation"),
    "roles: {level: {service: consumer}}": ("K203", 16, "Level of degradation"),
    "roles: {level: {service: consumr, metric: m}}": ("K501", 26, "did you mean `consumer`?"),
    "roles: {level: {service: consumer, metrc: m, metric: n}}": ("K204", 36, "did you mean `metric`?"),
    "roles: {probe: {template: trade}}": ("K203", 16, "probe message"),
    "roles: {own-name: 1}": ("K203", 9, ""),
}


def _stack(folder: Path, text: str) -> Stack:
    file = folder / "shop.yaml"
    file.write_text(f"stack: 1\n{text}\n{SERVICE}\n")
    return load_stack(str(file), near=None, home=folder / "home", overrides={})


def test_declared_roles_are_filled_in_and_have_their_types(tmp_path: Path) -> None:
    roles = _stack(tmp_path, DECLARED).roles
    assert (roles["topic"], roles["fresh"], roles["format"], roles["limit"]) == ("orders", 30, "avro", 300)
    assert (roles["level"].service, roles["level"].metric, roles["level"].labels) == ("consumer", "shop_level", {})


def test_a_role_that_is_not_declared_does_not_apply_and_says_so(tmp_path: Path) -> None:
    stack = _stack(tmp_path, DECLARED)
    says = "cannot say: the stack 'shop' declares no role 'levle'; did you mean `level`?"
    with pytest.raises(Inapplicable, match="declares no role 'levle'") as raised:
        stack.roles["levle"]
    assert raised.value.message == says
    assert stack.absent("roles.levle") == says
    assert not stack.absent("roles.level")
    assert "level" in stack.roles
    assert "shed" not in stack.roles
    assert stack.roles.get("shed", "none") == "none"


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_role_is_told_at_its_place_with_the_way_out(tmp_path: Path, text: str) -> None:
    from k2run.language.document import read_document

    [problem] = problems_of(read_document(f"stack: 1\n{text}\n{SERVICE}\n", "shop.yaml"))
    code, column, hint = WRONG[text]
    assert (problem.code, problem.place.line, problem.place.column) == (code, 2, column), render([problem])
    assert hint in problem.hint


def test_a_role_that_is_filled_in_wrongly_is_a_problem_too(tmp_path: Path) -> None:
    stack = _stack(tmp_path, "vars: {age: soon}\nroles: {fresh: '{{ age }}'}")
    [problem] = stack.check(Catalogue().connections())
    assert (problem.code, problem.place.line, problem.place.column) == ("K404", 3, 16)


def test_editors_complete_the_roles_of_built_in_runbooks() -> None:
    roles = stack_schema()["properties"]["roles"]["properties"]
    assert roles.keys() == ROLES.keys()
    assert roles["level"]["properties"].keys() == {"service", "metric", "labels"}
    assert all(each["description"] for each in roles.values())


def test_the_page_tells_every_role() -> None:
    page = (ROOT / "docs" / "stacks.md").read_text(encoding="utf-8")
    assert [name for name in ROLES if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", ["api-down", "stream-stalled", "consumer-not-committing"])
def test_a_protected_stack_lets_recoveries_write_the_probe_that_it_declares(tmp_path: Path, name: str) -> None:
    catalogue = Catalogue()
    runbook = load_runbook(ROOT / "runbooks" / "recovery" / f"{name}.yaml", catalogue)
    steps = [step for section in runbook.sections for step in section.steps if not section.name.startswith("Get ")]
    declared = _stack(tmp_path, "protected: true\nroles: {topic: orders, probe: {template: trade, key: A}}")
    check_protected(steps, runbook, declared, catalogue)
    with pytest.raises(Protected):
        check_protected(steps, runbook, _stack(tmp_path, "protected: true\nroles: {topic: orders}"), catalogue)


def test_a_backlog_is_no_probe(tmp_path: Path) -> None:
    stack = _stack(tmp_path, "protected: true\nroles: {topic: orders, probe: {template: trade, key: A}}")
    file = tmp_path / "much.yaml"
    file.write_text(
        "runbook: 1\nkind: recovery\nname: much\nsections:\n- name: Write\n  steps:\n  - name: Much\n"
        '    kafka.produce: {topic: "{{ roles.topic }}", template: "{{ roles.probe.template }}", count: 600000}\n'
    )
    runbook = load_runbook(file, Catalogue())
    with pytest.raises(K2runError, match="is protected"):
        check_protected(list(runbook.sections[0].steps), runbook, stack, Catalogue())
