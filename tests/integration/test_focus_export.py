"""The FOCUS export of usage in the real engine: rules, totals, corrections, closed months."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.stored import as_stored, original, table_row

from sluice.feedback.rerate import Rerating
from sluice.feedback.standing import standing
from sluice.focus.export import Exported, Target, export
from sluice.focus.files import Format, read_cells
from sluice.focus.focus_rules import check_file
from sluice.metering.prices import PriceBook, PriceEntry
from sluice.metering.rates import Tier
from sluice.money import pusd
from sluice.settings import Settings
from sluice.warehouse.charges import ChargeRange
from sluice.warehouse.migrations import migrate
from sluice.warehouse.node import ClickHouseNode
from sluice.warehouse.usage_rows import Range, UsageRows
from sluice.warehouse.writer import Writer

pytestmark = pytest.mark.integration

HOUR = 3_600_000_000
DAY = 24 * HOUR
RATES = {"input": 250_000, "cache_read": 25_000, "output": 1_000_000}
NEW = {"input": 200_000, "cache_read": 30_000, "output": 900_001}


def at(text: str) -> int:
    """µs UTC of an instant."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


OCTOBER, NOVEMBER = at("2026-10-01"), at("2026-11-01")
EVER = at("2027-01-01")


def priced(number: int, when: int, rng: random.Random, **over: Any) -> dict[str, Any]:
    """A stored inference with its classes."""
    counts = {"input": rng.randrange(1, 9000), "cache_read": rng.randrange(0, 900),
              "output": rng.randrange(1, 3000)}  # fmt: skip
    classes = [(key, n, n * RATES[key]) for key, n in counts.items() if n]
    fields: dict[str, Any] = {
        "tenant_id": rng.choice(["acme", "globex"]), "project_id": rng.choice(["chat", "search"]),
        "request_model": rng.choice(["m-large", "m-small"]), "provider_name": "openai",
        "tool_name": rng.choice([None, "search"]), "region": rng.choice([None, "eu-west"]),
        "service_tier": rng.choice([None, "batch"]), "occurred_at": when, "started_at": when,
        "input_tokens": counts["input"] + counts["cache_read"],
        "cache_read_input_tokens": counts["cache_read"], "output_tokens": counts["output"],
    }  # fmt: skip
    cost = sum(c for _, _, c in classes)
    return original(number, cost, classes=classes, **(fields | over))


def book(rates: dict[str, int]) -> PriceBook:
    """A book of both models."""
    entries = tuple(PriceEntry(m, None, (Tier("", 0, rates),)) for m in ("m-large", "m-small"))
    return PriceBook("test", "hand", "none", entries)


@pytest.fixture(scope="module")
def usage_of() -> list[dict[str, Any]]:
    """October's and November's usage: priced, billed by the provider, unpriced, of other units."""
    rng = random.Random(7)
    stored = [priced(n, OCTOBER + rng.randrange(62 * DAY - 2 * DAY), rng) for n in range(1, 400)]
    billed = original(1000, 123_456_789_012, tenant_id="acme", occurred_at=OCTOBER + DAY,
                      started_at=OCTOBER + DAY, cost_source="provider")  # fmt: skip
    unpriced = original(1001, None, tenant_id="acme", request_model="new-model",
                        occurred_at=OCTOBER + DAY, started_at=OCTOBER + DAY)  # fmt: skip
    other = [("request", 1, 5_000_000), ("gpu_us", 1_000_000, 777_777), ("images", 3, 10),
             ("kv_byte_ms", 9 * 10**15, 4)]  # fmt: skip
    units = original(1002, 5_777_791, tenant_id="globex", occurred_at=OCTOBER + 2 * DAY,
                     started_at=OCTOBER + 2 * DAY, classes=other)  # fmt: skip
    refund = original(1003, -77, tenant_id="globex", occurred_at=OCTOBER + 2 * DAY,
                      started_at=OCTOBER + 2 * DAY, cost_source="provider")  # fmt: skip
    return [*stored, billed, unpriced, units, refund]


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, usage_of: list[dict[str, Any]]
) -> Iterator[Settings]:
    """A server that holds the usage, late usage, and corrections within and after their month."""
    with ClickHouseNode(tmp_path_factory.mktemp("focus")) as node:
        migrate(node.settings)
        writer = Writer(node.settings)
        writer.insert_rows("usage_events", [table_row(row) for row in usage_of])
        late = priced(2000, NOVEMBER - DAY, random.Random(1), tenant_id="acme")
        writer.insert_rows("usage_events", [table_row(late, broker_time=NOVEMBER + 9 * DAY)])
        reader = UsageRows(node.settings)
        groups = list(reader.groups(Range(OCTOBER, EVER)))
        reader.close()
        made = [as_stored(c) for c in Rerating(book(NEW), NOVEMBER + 3 * DAY).corrections(groups)]
        rows = [table_row(c, broker_time=max(NOVEMBER + 5 * DAY, c["occurred_at"])) for c in made]
        assert len({row["occurred_at"] // DAY for row in rows}) > 30
        writer.insert_rows("usage_events", rows)
        writer.close()
        yield node.settings


def exported(settings: Settings, path: Path, wanted: ChargeRange, *, format: Format = "csv",
             granularity: str = "hour") -> tuple[Exported, list[dict[str, str]]]:  # fmt: skip
    """An export, and its rows read back."""
    report = export(settings, wanted, Target(path, format, granularity, "Sluice"))
    names, rows = read_cells(path, format)
    assert names[0] == "AvailabilityZone"
    return report, [dict(row) for row in rows]


ALL = ChargeRange(OCTOBER, EVER, EVER)


def billed(rows: list[dict[str, str]]) -> int:
    """Sum of BilledCost in pico-USD."""
    return sum(pusd(row["BilledCost"]) for row in rows)


@pytest.mark.parametrize("granularity", ["hour", "day"])
@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_an_export_keeps_the_rules_and_the_total(
    settings: Settings, tmp_path: Path, format: Format, granularity: str
) -> None:
    """The file of two months breaks no rule and sums up to the stored events exactly."""
    path = tmp_path / f"x.{format}"
    report, rows = exported(settings, path, ALL, format=format, granularity=granularity)
    names, cells = read_cells(path, format)
    assert list(check_file(names, cells)) == []
    assert len(rows) == report.rows > 100
    assert billed(rows) == report.cost_pusd == report.stored_pusd != 0


def test_both_formats_say_the_same(settings: Settings, tmp_path: Path) -> None:
    """CSV and Parquet hold the same cells."""
    _, csv_rows = exported(settings, tmp_path / "x.csv", ALL)
    _, parquet_rows = exported(settings, tmp_path / "x.parquet", ALL, format="parquet")
    assert csv_rows == parquet_rows


def test_usage_of_a_class_carries_its_exact_unit_price(settings: Settings, tmp_path: Path) -> None:
    """Token rows have the book's rate; other units are seconds, byte-seconds and counts."""
    _, rows = exported(settings, tmp_path / "x.csv", ALL)
    usage = [r for r in rows if r["x_ChargeKind"] == "usage" and not r["ChargeClass"]]
    prices = {r["ListUnitPrice"] for r in usage if r["x_TokenClass"] == "input"}
    assert prices == {"0.00000025"}
    units = {r["x_TokenClass"]: (r["PricingUnit"], r["PricingQuantity"]) for r in usage
             if r["x_TokenClass"] in ("request", "gpu_us", "images", "kv_byte_ms")}  # fmt: skip
    assert units == {"request": ("Requests", "1.0"), "gpu_us": ("Seconds", "1.0"),
                     "images": ("Images", "3.0"),
                     "kv_byte_ms": ("B-Seconds", "9000000000000.0")}  # fmt: skip
    (gpu,) = [r for r in usage if r["x_TokenClass"] == "gpu_us"]
    assert (gpu["ListUnitPrice"], gpu["BilledCost"]) == ("0.000000777777", "0.000000777777")


def test_corrections_stand_apart(settings: Settings, tmp_path: Path) -> None:
    """After its month closed it is a Correction, before that an adjustment; sums are the deltas."""
    _, rows = exported(settings, tmp_path / "x.csv", ALL)
    corrections = [r for r in rows if r["x_ChargeKind"] == "correction"]
    kinds = {(r["ChargeCategory"], r["ChargeClass"], r["BillingPeriodStart"][:7])
             for r in corrections}  # fmt: skip
    assert kinds == {("Usage", "Correction", "2026-11"), ("Adjustment", "", "2026-11")}
    reader = UsageRows(settings)
    deltas = sum(row["cost_pusd"] for group in reader.groups(Range(OCTOBER, EVER))
                 for row in group if row["event_type"] == "correction")  # fmt: skip
    reader.close()
    assert billed(corrections) == deltas != 0
    assert any(Decimal(r["BilledCost"]) < 0 for r in corrections)


def test_a_closed_month_stays_as_it_was(settings: Settings, tmp_path: Path) -> None:
    """October is the same before and after its corrections came; November has them."""
    october = ChargeRange(OCTOBER - 40 * DAY, NOVEMBER, EVER, (), "2026-10-01")
    _, now = exported(settings, tmp_path / "a.csv", october)
    closed = october._replace(as_of=NOVEMBER + 3 * DAY)
    _, then = exported(settings, tmp_path / "b.csv", closed)
    assert now == then
    assert {r["x_ChargeKind"] for r in now} == {"usage"}
    november = ChargeRange(OCTOBER - 10 * DAY, at("2026-12-01"), EVER, (), "2026-11-01")
    _, later = exported(settings, tmp_path / "c.csv", november)
    late = [r for r in later if r["ChargeClass"] and r["x_ChargeKind"] == "usage"]
    assert {r["ChargePeriodStart"][:10] for r in late} == {"2026-10-31"}
    _, whole = exported(settings, tmp_path / "d.csv", ALL)
    assert billed(now) + billed(later) == billed(whole)


def test_what_has_no_price_is_named_beside_the_file(settings: Settings, tmp_path: Path) -> None:
    """Usage without a price is in the report with its tokens and in no row; a refund is one."""
    report, rows = exported(settings, tmp_path / "x.csv", ALL)
    (unpriced,) = report.unpriced
    assert (unpriced["model"], unpriced["events"], unpriced["input_tokens"]) == (
        "new-model",
        1,
        100,
    )
    assert not [r for r in rows if r["x_Model"] == "new-model"]
    (refund,) = [r for r in rows if r["BilledCost"] == "-0.000000000077"]
    assert (refund["ChargeCategory"], refund["ListUnitPrice"]) == ("Adjustment", "")
    (bill,) = [r for r in rows if r["BilledCost"] == "0.123456789012"]
    assert (bill["x_CostSource"], bill["x_TokenClass"]) == ("provider", "unclassified")


def test_one_tenant_alone(settings: Settings, tmp_path: Path) -> None:
    """The export of each tenant adds up to the export of all."""
    _, whole = exported(settings, tmp_path / "x.csv", ALL)
    parts = 0
    for tenant in ("acme", "globex"):
        report, rows = exported(settings, tmp_path / "t.csv", ALL._replace(tenants=(tenant,)))
        assert {r["BillingAccountId"] for r in rows} == {tenant}
        parts += report.cost_pusd
    assert parts == billed(whole)


def test_stored_usage_reads_back_in_groups(
    settings: Settings, usage_of: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the batches, every event comes once, with its corrections, as it was stored."""
    monkeypatch.setattr("sluice.warehouse.usage_rows.BATCH_ROWS", 3)
    reader = UsageRows(settings)
    groups = list(reader.groups(Range(OCTOBER, EVER)))
    one = reader.event(usage_of[0]["event_id"])
    reader.close()
    ids = [group[0]["event_id"] for group in groups]
    late = "00000000-0000-7000-8000-0000000007d0"
    assert sorted(ids) == sorted([*(row["event_id"] for row in usage_of), late])
    assert all(standing(group) for group in groups)
    (group,) = one
    kept = {name: group[0][name] for name in usage_of[0] if name in group[0]}
    assert kept == {name: value for name, value in usage_of[0].items() if name in kept}
    assert json.dumps(kept)
