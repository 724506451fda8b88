"""Commands that prove the numbers: audit."""

from __future__ import annotations

from typing import Annotated

import typer

from sluice.cli.common import EXIT_NO, Dir, Json, console, print_json, settings_of, table, tell
from sluice.money import format_usd


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("audit")(audit)


def audit(
    dir: Dir = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for rows that are on their way.", min=0)
    ] = 60.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Holes in producers' numbers are a failure, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Recount the usage topic and compare it with raw events, windows and ledgers in ClickHouse.

    Exit code 1 when anything differs; every difference is named with both values.

    Example: sluice audit
    """
    from sluice.runtime.auditing import run_audit

    found = run_audit(settings_of(dir), timeout_s=timeout, watch=tell)
    if as_json:
        print_json({"equal": found.equal, "totals": found.totals(), "ledgers": found.ledgers,
                    "differences": found.differences, "holes": found.holes})  # fmt: skip
    else:
        rows = [
            (place, of["events"], of["input_tokens"], of["output_tokens"],
             format_usd(of["cost_pusd"], 12), of["unpriced"], format_usd(of["corrected_pusd"], 12))
            for place, of in found.totals().items()
        ]  # fmt: skip
        columns = ("found in", "events", "input tokens", "output tokens", "cost USD", "unpriced",
                   "corrected USD")  # fmt: skip
        table("Audit", columns, rows)
        for difference in found.differences:
            console.print(f"- {difference}", markup=False)
        for hole in found.holes:
            told = ", ".join(f"{name} {value}" for name, value in hole.items())
            console.print(f"incomplete: {told}", markup=False)
        verdict = "no difference" if found.equal else f"{len(found.differences)} differences"
        console.print(f"{verdict}; {found.ledgers} ledgers compared")
    if not found.equal or (strict and found.holes):
        raise typer.Exit(EXIT_NO)
