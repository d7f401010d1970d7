"""TLS: the actions on certificates."""
