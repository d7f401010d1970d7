"""For those who write runbooks: lint, explanations, starting points, graphs, completion, imports."""
