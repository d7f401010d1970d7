"""SSH: connections to other hosts and the actions on them."""
