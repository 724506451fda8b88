"""`python -m sluice.cli`, as the supervisor starts its children."""

from sluice.cli.app import main

main()
