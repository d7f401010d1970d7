"""MySQL and MariaDB: connections and the actions on them."""
