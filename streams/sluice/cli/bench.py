"""Commands of `sluice bench`: one per benchmark, each prints its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.common import EXIT_NO, Json, console, print_json, table, tell

if TYPE_CHECKING:
    from sluice.bench.figures import Report

app = typer.Typer(no_args_is_help=True)


def register(program: typer.Typer) -> None:
    """Add the group to the program."""
    program.add_typer(
        app, name="bench", help="Measure this machine; exit code 1 when a reach is missed."
    )


@app.callback()
def bench() -> None:
    """Measure this machine; exit code 1 when a reach is missed."""


@app.command()
def warehouse(
    events: Annotated[int, typer.Option(help="Generated usage events.", min=1)] = 10_000_000,
    days: Annotated[int, typer.Option(help="Days that they spread over.", min=1)] = 35,
    seed: Annotated[int, typer.Option(help="The same seed gives the same events.", min=0)] = 1,
    as_json: Json = False,
) -> None:
    """Rows and bytes per event in ClickHouse, and how long the cookbook takes.

    Example: sluice bench warehouse --events 1000000 --json
    """
    from sluice.bench.usage_data import Scale, until_now
    from sluice.bench.warehouse import run

    show(run(Scale(events, days, until_now(), seed), tell), as_json=as_json)


def show(report: Report, *, as_json: bool) -> None:
    """Print a report; leave with code 1 when a reach is missed."""
    if as_json:
        print_json(report.as_dict())
    else:
        rows = [(f.name, f.value, f.unit, "-" if f.reach is None else f.reach,
                 {None: "-", True: "yes", False: "NO"}[f.met]) for f in report.figures]  # fmt: skip
        table(report.benchmark, ("figure", "value", "unit", "reach", "met"), rows)
        if report.details:
            columns = tuple(report.details[0])
            table("Details", columns, [tuple(line.values()) for line in report.details])
        console.print(", ".join(f"{k} {v}" for k, v in report.machine.items()), markup=False)
    if not report.met:
        raise typer.Exit(EXIT_NO)
