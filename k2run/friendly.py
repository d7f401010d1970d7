"""Errors as people want to meet them on a command line."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke import Exit

from k2run.errors import K2runError, RunbookInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def friendly() -> Iterator[None]:
    """Turn every error that k2run raises on purpose into a message and its exit code; never a traceback."""
    try:
        yield
    except RunbookInvalid as invalid:
        from k2run.language.problems import render

        print(render(invalid.problems), file=sys.stderr)
        print(f"\n{invalid}", file=sys.stderr)
        raise Exit(code=invalid.exit_code) from None
    except K2runError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        raise Exit(code=error.exit_code) from None
    except BrokenPipeError:
        raise Exit(code=1) from None
