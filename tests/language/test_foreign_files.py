"""What is taken for a runbook and is a file of another tool is recognised, and answered."""

from __future__ import annotations

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.errors import RunbookInvalid
from k2run.language.loader import parse_runbook

FILES = {
    "- hosts: all\n  tasks:\n    - name: Ping\n      ping:\n": ("playbook of Ansible", "ansible-playbook"),
    "- import_playbook: other.yml\n": ("playbook of Ansible", "k2run new"),
    "services:\n  web: {image: nginx, ports: ['80:80']}\n": ("compose file", "run: docker"),
    "version: '3'\nservices: {web: {build: .}}\nvolumes: {}\n": ("compose file", "compose: it.yaml"),
    '{"title": "t", "description": "d", "method": []}': ("experiment of Chaos Toolkit", "import chaos it.yaml"),
    "title: t\nsteady-state-hypothesis: {title: h, probes: []}\n": ("Chaos Toolkit", "import chaos"),
    "stack: 1\nname: bare\ntitle: Nothing\n": ("stack file", "--stack"),
    "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n": ("manifest of Kubernetes", "kubectl"),
}


@pytest.mark.parametrize("text", FILES)
def test_a_file_of_another_tool_is_one_problem_with_the_way_out(text: str) -> None:
    with pytest.raises(RunbookInvalid) as caught:
        parse_runbook(text, "it.yaml", Catalogue())
    [problem] = caught.value.problems
    what, way_out = FILES[text]
    assert (problem.code, what in problem.message, way_out in problem.hint) == ("K201", True, True)


@pytest.mark.parametrize("text", ["title: x\n", "- a\n", "kind: readiness\nsections: []\n"])
def test_a_runbook_with_mistakes_stays_one(text: str) -> None:
    with pytest.raises(RunbookInvalid) as caught:
        parse_runbook(text, "it.yaml", Catalogue())
    assert not any("this is a" in problem.message for problem in caught.value.problems)
