"""The web page: a reader of journals that starts runs as processes of their own."""
