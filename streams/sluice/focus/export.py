"""The export itself: charges out of ClickHouse into a file, and what has to be said beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sluice.focus.files import Format, write_csv, write_parquet
from sluice.focus.rows import Charge, FocusRow, focus_row
from sluice.settings import Settings
from sluice.warehouse.charges import ChargeRange, Charges

_PERIOD_US = {"hour": 3_600_000_000, "day": 86_400_000_000}


class Target(NamedTuple):
    """Where the export goes and how fine it is; `path` None is standard output (CSV only)."""

    path: Path | None
    format: Format
    granularity: str  # hour, day
    issuer: str


class Exported(NamedTuple):
    """What was written: `cost_pusd` is the file's sum, `stored_pusd` that of the stored events."""

    rows: int
    cost_pusd: int
    stored_pusd: int
    events: int
    unpriced: list[dict[str, Any]]


def export(settings: Settings, wanted: ChargeRange, target: Target) -> Exported:
    """Write the file; raises OutsideError while ClickHouse is away."""
    charges = Charges(settings)
    try:
        written = _Sum()
        rows = written.over(_rows(charges, wanted, target))
        count = _write(rows, target)
        stored_pusd, events = charges.total(wanted)
        return Exported(count, written.cost_pusd, stored_pusd, events, charges.unpriced(wanted))
    finally:
        charges.close()


class _Sum:
    """Adds up what passes."""

    def __init__(self) -> None:
        self.cost_pusd = 0

    def over(self, rows: Iterator[tuple[int, FocusRow]]) -> Iterator[FocusRow]:
        for cost_pusd, row in rows:
            self.cost_pusd += cost_pusd
            yield row


def _rows(charges: Charges, wanted: ChargeRange, target: Target) -> Iterator[tuple[int, FocusRow]]:
    length_us = _PERIOD_US[target.granularity]
    for row in charges.rows(wanted, by_day=target.granularity == "day"):
        charge = _charge(row, length_us)
        yield charge.cost_pusd, focus_row(charge, target.issuer)


def _charge(row: dict[str, Any], length_us: int) -> Charge:
    return Charge(
        tenant_id=row["tenant_id"], project_id=row["project_id"],
        provider_name=row["provider_name"], operation_name=row["operation_name"],
        model=row["model"], tool=row["tool"], region=row["region_name"],
        service_tier=row["tier"], cost_source=row["said_by"],
        price_book_version=row["book_version"], kind=row["kind"],
        period_start=row["period_start"], period_end=row["period_start"] + length_us,
        billing_start=row["billing_start"], key=row["key"], unit_price_pusd=row["unit_price"],
        quantity=row["quantity"], cost_pusd=row["cost_pusd"], events=row["events"],
    )  # fmt: skip


def _write(rows: Iterator[FocusRow], target: Target) -> int:
    if target.path is None:
        return write_csv(rows, sys.stdout)
    if target.format == "parquet":
        return write_parquet(rows, target.path)
    with target.path.open("w", newline="", encoding="utf-8") as out:
        return write_csv(rows, out)
