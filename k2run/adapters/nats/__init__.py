"""NATS: connections and the actions on them."""
