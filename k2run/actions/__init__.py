"""What an action is, and the catalogue of all of them."""
