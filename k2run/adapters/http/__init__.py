"""HTTP: the client, how servers are trusted, and the actions."""
