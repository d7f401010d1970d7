"""A browser: the client, recordings and the actions."""
