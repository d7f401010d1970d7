"""Redis: connections and the actions on them."""
