"""Documents whose every number is quoted from a journal."""
