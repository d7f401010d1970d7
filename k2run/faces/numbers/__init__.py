"""Commands that answer from the journals of past runs."""
