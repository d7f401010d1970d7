"""The embedded reference stack: a small, real K2 made of separate programs."""
