"""Kubernetes: connections and the actions on them."""
