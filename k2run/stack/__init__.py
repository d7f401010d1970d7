"""Stacks: where the services of one environment are, and how they are run."""
