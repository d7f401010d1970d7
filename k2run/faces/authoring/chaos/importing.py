"""`k2run import chaos FILE`: from an experiment's file to a runbook's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from k2run.actions.catalogue import Catalogue
from k2run.errors import UsageError
from k2run.faces.authoring.chaos.experiment import convert, read_experiment
from k2run.language.loader import parse_runbook

FORMATS = ("chaos",)


def import_file(form: str, file: Path, *, folder: Path = Path("runbooks")) -> Path:
    """Write the runbook that does what a file of another tool does; what was not carried over is told on stderr.

    Args:
        form: Which tool's: `chaos`.
        file: Its file.
        folder: Where to put the runbook.

    Raises:
        UsageError: There is no such format or file, or the runbook is there already.
        RunbookInvalid: The experiment has in it what no runbook can say (such as 5,000 characters of a pattern).
    """
    if form not in FORMATS:
        raise UsageError(f"there is nothing to import from {form!r}", hint=f"k2run import {FORMATS[0]} FILE")
    experiment = read_experiment(file)
    name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-") or "experiment"
    path = folder / f"{name}.yaml"
    if path.exists():
        raise UsageError(f"{path} is there already", hint="remove it, or give another --folder")
    made = convert(experiment, name, folder=folder)
    for about, remark in made.remarks:
        print(f"{about}: {remark}", file=sys.stderr)
    parse_runbook(made.text, str(path), Catalogue(), home=folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(made.text, encoding="utf-8")
    return path
