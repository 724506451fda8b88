"""Commands that write what is stored in other systems' formats."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sluice.cli.common import EXIT_NO, Dir, Json, errors, instant, print_json, settings_of, tell
from sluice.errors import ConfigError
from sluice.money import format_usd, usd

if TYPE_CHECKING:
    from sluice.focus.export import Exported
    from sluice.focus.focus_rules import Violation
    from sluice.warehouse.charges import ChargeRange

export_app = typer.Typer(help="Write usage and cost for other systems.", no_args_is_help=True)

_SHOWN = 20
# Usage arrives at most 35 days after it occurred, and is then billed in the month it came in.
_BEFORE = timedelta(days=40)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(export_app, name="export")


@export_app.callback()
def _group() -> None:
    """Write usage and cost for other systems."""


@export_app.command("focus")
def focus(
    since: Annotated[
        str | None, typer.Option("--from", help="Start of the usage (default: this month's).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="End, excluded (default: now).")] = None,
    month: Annotated[
        str | None, typer.Option(help="What is billed in this month (YYYY-MM) instead.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="As it was known at that instant (default: now).")
    ] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; repeatable.")] = None,
    granularity: Annotated[Literal["hour", "day"], typer.Option(help="Charge period.")] = "hour",
    out: Annotated[
        Path | None, typer.Option(help="The file (default: CSV on standard output).")
    ] = None,
    format: Annotated[
        Literal["csv", "parquet"] | None, typer.Option(help="Default: by the file's name.")
    ] = None,
    issuer: Annotated[str, typer.Option(help="Who sells and invoices.")] = "Sluice",
    check: Annotated[
        bool, typer.Option("--check", help="Read the file back and check FOCUS's rules.")
    ] = False,
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Write what usage cost as FOCUS 1.2: a row per token class, corrections in rows of their own.

    A month closes three days after its end: what arrives later is billed in the month of its
    arrival, so the file of a closed month stays the same. Usage without a price is named, not
    written. Exit code 1 when the totals differ or a rule is broken.

    Example: sluice export focus --month 2026-10 --out october.csv --check
    """
    from sluice.focus.export import Target, export

    if out is None and (check or as_json or format == "parquet"):
        raise ConfigError("--check, --json and Parquet need --out FILE")
    kind = format or ("parquet" if out and out.suffix == ".parquet" else "csv")
    wanted = _range(since, until, month, as_of, tenant or [])
    report = export(settings_of(dir), wanted, Target(out, kind, granularity, issuer))
    broken = _check(out, kind) if out and check else []
    if as_json:
        print_json(_report(report, broken, checked=check))
    else:
        _show(report, broken, checked=check)
    if broken or report.cost_pusd != report.stored_pusd:
        raise typer.Exit(EXIT_NO)


def _range(
    since: str | None, until: str | None, month: str | None, as_of: str | None, tenants: list[str]
) -> ChargeRange:
    from sluice.warehouse.charges import ChargeRange

    now = time.time_ns() // 1000
    known = now if as_of is None else instant(as_of, "--as-of")
    if month is not None:
        if since or until:
            raise ConfigError("say --month, or --from and --to")
        start, end = _month(month)
        early = _us(start - _BEFORE)
        return ChargeRange(early, _us(end), known, tenants, start.strftime("%Y-%m-%d"))
    this_month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    begin = _us(this_month) if since is None else instant(since, "--from")
    end_us = now if until is None else instant(until, "--to")
    if begin >= end_us:
        raise ConfigError("--from lies before --to")
    return ChargeRange(begin, end_us, known, tenants)


def _month(text: str) -> tuple[datetime, datetime]:
    try:
        start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError(f"--month {text}: write 2026-10") from error
    return start, (start + timedelta(days=32)).replace(day=1)


def _us(when: datetime) -> int:
    return int(when.timestamp()) * 1_000_000


def _check(path: Path, kind: Literal["csv", "parquet"]) -> list[Violation]:
    from sluice.focus.files import read_cells
    from sluice.focus.focus_rules import check_file

    names, rows = read_cells(path, kind)
    return list(islice(check_file(names, rows), _SHOWN))


def _report(report: Exported, broken: list[Violation], *, checked: bool) -> dict[str, object]:
    return {
        "rows": report.rows, "events": report.events, "billed_usd": str(usd(report.cost_pusd)),
        "stored_usd": str(usd(report.stored_pusd)), "unpriced": report.unpriced,
        "checked": checked, "broken": [str(violation) for violation in broken],
    }  # fmt: skip


def _show(report: Exported, broken: list[Violation], *, checked: bool) -> None:
    tell(f"{report.rows:,} rows of {report.events:,} events and corrections: "
         f"{format_usd(report.cost_pusd, 12)} USD")  # fmt: skip
    if report.cost_pusd != report.stored_pusd:
        errors.print(f"the stored events sum up to {format_usd(report.stored_pusd, 12)} USD: usage "
                     "was stored meanwhile, run it again", style="red")  # fmt: skip
    for line in report.unpriced:
        tell(f"without a price, not in the file: {line['tenant_id']}, {line['model']}: "
             f"{line['events']} events, {line['input_tokens']} input and "
             f"{line['output_tokens']} output tokens")  # fmt: skip
    for violation in broken:
        errors.print(str(violation), style="red", markup=False)
    if checked and not broken:
        tell("keeps the rules of FOCUS 1.2 that a file can show")
