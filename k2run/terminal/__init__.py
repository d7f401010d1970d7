"""A run on a terminal: live, as plain lines, or as JSON. Only the live display loads a terminal library."""
