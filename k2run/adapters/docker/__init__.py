"""Containers: the actions on them and what they return."""
