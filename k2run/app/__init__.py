"""What the command line, the page and the daemon share: starting, recovering, drilling, ending and undoing runs."""
