"""`python -m decm`: the command line."""

from decm.cli.main import main

main()
