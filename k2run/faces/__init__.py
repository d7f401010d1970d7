"""Where people meet a run: they start runs and show events."""
