"""`python -m k2run` is the console script `k2run`."""

from k2run.cli.program import main

main()
