"""k2run: runbooks that check, measure, break and recover a real data stack, and keep the evidence."""

__version__ = "0.2.0"
