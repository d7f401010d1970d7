"""PostgreSQL: connections and the actions on them."""
