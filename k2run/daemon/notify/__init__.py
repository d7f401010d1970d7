"""Messages to people about runs: what is told, to whom, and how it gets there without a run ever waiting for it."""
