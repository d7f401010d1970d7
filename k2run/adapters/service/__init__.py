"""Services of the stack: the actions on one and on all of them."""
