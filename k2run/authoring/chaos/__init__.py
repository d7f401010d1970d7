"""Turns experiments of Chaos Toolkit into runbooks."""
