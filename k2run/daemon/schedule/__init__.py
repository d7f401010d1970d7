"""Runs that start by themselves: what is due, who takes it, and what became of it."""
