"""The command line: every command names an example, reports as tables or `--json`.

Exit codes: 0 done; 1 the answer is no (a check failed, totals differ); 2 wrong usage or
configuration; 75 an outside system is away, try again.
"""

from sluice.cli.app import main

__all__ = ["main"]
