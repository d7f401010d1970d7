"""A new runbook is right from its first line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.authoring.lint import findings, open_subject
from k2run.authoring.new import write_new
from k2run.errors import UsageError
from k2run.language.model import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.actions.catalogue import Catalogue


@pytest.mark.parametrize("kind", Kind)
def test_a_new_runbook_of_each_kind_is_valid_and_lints_clean(kind: Kind, tmp_path: Path, catalogue: Catalogue) -> None:
    path = write_new(kind, "first-try", folder=tmp_path / "runbooks")
    subject = open_subject(path, catalogue)
    assert (subject.runbook.kind, subject.runbook.name, subject.runbook.title) == (kind, "first-try", "First try")
    assert findings(subject) == []


def test_a_new_runbook_asks_for_the_roles_that_its_stack_declares(tmp_path: Path) -> None:
    text = write_new("readiness", "first-try", folder=tmp_path / "runbooks").read_text()
    assert 'kafka.rate: {topic: "{{ roles.topic }}"' in text
    assert "go: 34" in text, "2 for each of 11 services, 6 for each of 2 roles"


def test_a_new_runbook_is_full_of_comments_and_names_its_schema(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "runbook.schema.json").write_text("{}")
    text = write_new("scenario", "lag").read_text()
    assert text.startswith("# yaml-language-server: $schema=../schemas/runbook.schema.json\n")
    assert text.count("#") > 8
    assert "<" not in text.replace("<=", "")


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [("scenari", "lag", "scenario"), ("scenario", "../lag", "letters"), ("scenario", "Lag High", "letters")],
)
def test_a_wrong_kind_or_name_is_told(kind: str, name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write_new(kind, name, folder=tmp_path)
    assert said in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = write_new("readiness", "mine", folder=tmp_path)
    path.write_text("precious")
    with pytest.raises(UsageError):
        write_new("readiness", "mine", folder=tmp_path)
    assert path.read_text() == "precious"
