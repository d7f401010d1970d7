"""Plain words: expressions that read as translated do not come back, in code, pages, templates and runbooks."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.no_cover

INSTEAD = {
    r"\banew\b": "again, from scratch",
    r"\b(?:does|do) (?:its|their) work\b": "is healthy, is ready",
    r"\bdoes not do its work\b": "is not healthy",
    r"\bgo(?:es)? on with\b": "continues, resumes",
    r"\b(?:is|are|was|were|be) let go\b": "is injected, is released",
    r"\b(?:is|are|was|were|be) held against\b": "is compared with",
    r"\b(?:is|are|was|were|be) looked at\b": "is checked",
    r"\blooks? again\b": "checks again",
    r"\bthe way out\b": "the fix, the hint",
    r"\bfaults? strikes?\b": "a fault is injected",
    r"\bbefore (?:it|a fault) strikes\b": "before it is injected",
    r"\bsomebody\b": "an operator, someone, a person",
    r"\bnobody\b": "no operator, no one",
    r"\bis over\b": "has ended",
    r"\bin good order\b": "cleanly",
    r"\bmeans nothing\b": "unknown",
    r"\bcomes first: \S+ works with what it repairs": "running it first: … depends on it",
    r"\bagree on no TLS\b": "TLS handshake failed",
    r"\bwas not as it should be\b": "did not meet the expectation",
    r"\bEnter (?:does it|goes on)\b": "Enter run, Enter continue",
    r"\bmade-up\b": "generated",
    r"\bfor all who\b": "for everyone who",
    r"\bcalled like\b": "named",
    r"\bcame and went\b": "flapped",
    r"\bwith (?:its|their) place\b": "with its location",
    r"\bcannot stand in YAML\b": "invalid character",
    r"\b(?:is|are) here twice\b": "duplicate key",
    r"\b(?:lets?|letting) (?:one|a|the|all) (?:of )?faults?(?: of them)? go\b": "injects",
    r"\bkeeps? within its\b": "stays within",
    r"\bworked off\b": "drained",
    r"\bmakes? no sense\b": "is invalid",
}
"""Old words, as regular expressions without regard to case, and what to write instead."""
NAMES = re.compile(
    r"\bNobody(?=\()|(?:import|class|=)\s*Nobody\b|\basks_nobody\b"  # who answers in an unattended run
    r"|\bNOBODY\b|\bread-by-nobody\b|\bnobody(?=[.@=()}]|\s=)"  # variables, addresses and topics of tests
    r"|[\"'@/=$:-]nobody\b|user nobody|as nobody"  # the system's account
)
"""Names that stay."""
NOT_OURS = {"tests/test_words.py"}
PLACES = ("k2run/**/*.py", "tests/**/*.py", "tasks.py", "benchmarks/**/*.py", "k2run/**/*.md", "k2run/**/*.html")
PAGES = ("*.md", "docs/**/*.md", "runbooks/**/*.yaml", "k2run/**/*.yaml", "schemas/*.json", "install.sh", ".ci/*")


@pytest.mark.parametrize("old", INSTEAD)
def test_old_words_do_not_come_back(old: str) -> None:
    matcher = re.compile(old, re.IGNORECASE)
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for name, text in _texts()
        for match in matcher.finditer(text)
    ]
    assert not found, f"instead: {INSTEAD[old]}"


@cache
def _texts() -> list[tuple[str, str]]:
    """The texts by name, without the names that stay."""
    paths = {path for pattern in (*PLACES, *PAGES) for path in ROOT.glob(pattern) if path.is_file()}
    named = {str(path.relative_to(ROOT)): path for path in sorted(paths)}
    return [
        (name, NAMES.sub("", path.read_text(encoding="utf-8"))) for name, path in named.items() if name not in NOT_OURS
    ]
