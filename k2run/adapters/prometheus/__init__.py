"""Prometheus: its HTTP API and the actions on it."""
