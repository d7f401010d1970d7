"""YAML text to a checked runbook."""
