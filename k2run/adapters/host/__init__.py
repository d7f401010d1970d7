"""This machine: its state, stress processes, and the actions."""
