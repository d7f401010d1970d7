"""`doc` describes the words of the language like actions."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.authoring.action_manual import KEYWORD_PAGES, show_actions
from k2run.language.loader import parse_runbook
from k2run.language.vocabulary import WORDS

if TYPE_CHECKING:
    from pathlib import Path


def test_every_word_of_the_language_has_a_page() -> None:
    assert set(KEYWORD_PAGES) == {*WORDS, "block"}


@pytest.mark.parametrize("word", KEYWORD_PAGES)
def test_the_page_of_a_word_has_its_keywords_and_an_example_that_is_valid(
    word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    show_actions(word)
    text = capsys.readouterr().out
    assert text.startswith(f"{word}  (keyword)")
    assert "Keywords\n  name, id, when" in text
    example = textwrap.dedent(text.partition("\nExample\n")[2])
    (tmp_path / "scenarios").mkdir()
    inner = "runbook: 1\nkind: readiness\nname: inner\ninputs: {backlog: {type: integer}}\n"
    inner += "sections: [{steps: [{wait: {for: 1ms}}]}]\n"
    (tmp_path / "scenarios" / "consumer-lag.yaml").write_text(inner)
    head = "runbook: 1\nkind: readiness\nname: t\nvars: {lag: {total: 1, partitions: 1}, backlog: 1, quick: true}\n"
    steps = textwrap.indent(example, "      ")
    parse_runbook(f"{head}sections:\n  - steps:\n{steps}", "t.yaml", Catalogue(), home=tmp_path)
