"""Grafana: its HTTP API, dashboards and the actions on them."""
