"""Draws runbooks: sections, faults, undos and clocks."""
