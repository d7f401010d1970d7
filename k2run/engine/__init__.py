"""Runs a runbook on a stack."""
