"""Every code can be explained on the terminal."""

from __future__ import annotations

import pytest

from k2run.authoring.action_manual import every_explanation, show_explanation
from k2run.errors import UsageError


def test_a_code_is_told_with_both_examples(capsys) -> None:
    show_explanation("k301")
    said = capsys.readouterr().out
    assert "K301: Unknown action" in said
    assert said.index("Wrong:") < said.index("kafka.lagg") < said.index("Right:")


def test_without_a_code_all_are_listed(capsys) -> None:
    show_explanation("")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(every_explanation())
    assert any(line.startswith("L101") for line in said)


def test_an_unknown_code_is_a_usage_error_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        show_explanation("K3O1")
    assert "K301" in caught.value.hint
