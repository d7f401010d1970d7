"""Reads journals: scores, reports, documents."""
