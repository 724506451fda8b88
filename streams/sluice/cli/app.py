"""The `sluice` command and how its errors reach a person."""

from __future__ import annotations

import sys

import typer

from sluice.cli import (
    baseline,
    bench,
    budgets,
    checks,
    corrections,
    data,
    explain,
    export,
    rules,
    stack,
)
from sluice.cli.common import EXIT_AWAY, EXIT_USAGE, errors
from sluice.errors import OutsideError, SluiceError

app = typer.Typer(
    name="sluice",
    help="Meter AI workloads and enforce their budgets while they run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
stack.register(app)
data.register(app)
rules.register(app)
budgets.register(app)
explain.register(app)
baseline.register(app)
checks.register(app)
corrections.register(app)
export.register(app)
bench.register(app)


def main() -> None:
    """Run one command; errors become one sentence and an exit code."""
    try:
        app()
    except OutsideError as error:
        _fail(error, EXIT_AWAY)
    except SluiceError as error:
        _fail(error, EXIT_USAGE)
    except BrokenPipeError:
        sys.exit(0)


def _fail(error: SluiceError, code: int) -> None:
    errors.print(f"sluice: {error}", style="red", highlight=False, markup=False)
    sys.exit(code)
