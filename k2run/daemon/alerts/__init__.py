"""Alerts that become incidents: received, diagnosed, answered by a runbook, closed when they are resolved."""
