"""The command line: Invoke tasks, and a run on a terminal."""
