from pathlib import Path

import pytest

from k2run.engine.journal import read_journal

JOURNALS = Path(__file__).parent.parent / "evidence" / "journals"


@pytest.fixture
def demo_day():
    """A run that went well: go, with items for a person."""
    return read_journal(JOURNALS / "demo-day.jsonl")


@pytest.fixture
def consumer_killed():
    """A run that was interrupted, with a fault that could not be undone."""
    return read_journal(JOURNALS / "consumer-killed.jsonl")
