"""Generated usage holds the meter's laws, and the benchmark reports what it measured."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sluice.bench.usage_data import Scale, fill, until_now
from sluice.bench.warehouse import measure
from sluice.settings import Settings
from sluice.warehouse.client import query_text
from sluice.warehouse.cookbook import recipes
from sluice.warehouse.migrations import migrate
from sluice.warehouse.node import ClickHouseNode

pytestmark = pytest.mark.integration

UNTIL = datetime(2027, 1, 15, 12, tzinfo=UTC)
EVERYTHING = "SELECT * FROM usage_events FINAL ORDER BY ALL"
# What an event has to obey, and a window row.
EVENT_LAWS = (
    "body_pusd + shoulder_pusd + tail_pusd = ifNull(cost_pusd, 0)",
    "arraySum(usage_by_class.cost_pusd) = ifNull(cost_pusd, 0)",
    "cache_read_input_tokens + cache_write_input_tokens <= input_tokens",
    "reasoning_output_tokens <= output_tokens",
    "started_at <= occurred_at",
    "broker_time >= occurred_at",
)
WINDOW_LAWS = (
    "body_pusd + shoulder_pusd + tail_pusd = cost_pusd",
    "arraySum(usage_by_class.cost_pusd) = cost_pusd",
    "arraySum(mapValues(tail_by_cause)) = tail_pusd",
    "arraySum(mapValues(overhead_by_cause)) = cost_pusd",
    "arraySum(cost_histogram.cost_pusd) = cost_pusd",
    "arraySum(mapValues(outcomes)) = events",
    "good <= events",
    "input_uncached_tokens + cache_read_input_tokens + cache_write_input_tokens = input_tokens",
)
SUMS = ("cost_pusd", "body_pusd", "shoulder_pusd", "tail_pusd", "input_tokens", "output_tokens")


def generated(node: ClickHouseNode, database: str, seed: int) -> Settings:
    """A database with little generated usage."""
    settings = node.settings.model_copy(update={"clickhouse_database": database})
    migrate(settings)
    fill(settings, Scale(4000, 3, UNTIL, seed))
    return settings


def value(settings: Settings, sql: str) -> Any:
    """The row of a query as a dictionary."""
    quoted = "output_format_json_quote_64bit_integers = 0"
    return json.loads(query_text(settings, f"{sql} SETTINGS {quoted}", "JSONEachRow"))


def test_the_laws_hold_and_the_seed_decides(node: ClickHouseNode) -> None:
    """Every event and row keeps the laws, sums agree, and only another seed gives other events."""
    settings = generated(node, "one", 1)
    broken = ", ".join(f"countIf(NOT ({law})) AS l{n}" for n, law in enumerate(EVENT_LAWS))
    where = "event_type != 'admission'"
    found = value(settings, f"SELECT {broken} FROM usage_events WHERE {where}")
    assert set(found.values()) == {0}
    broken = ", ".join(f"countIf(NOT ({law})) AS l{n}" for n, law in enumerate(WINDOW_LAWS))
    found = value(settings, f"SELECT {broken} FROM usage_windows FINAL")
    assert set(found.values()) == {0}
    sums = ", ".join(f"sum({name}) AS total_{name}" for name in SUMS)
    events = value(settings, f"SELECT {sums} FROM usage_events WHERE {where}")
    assert value(settings, f"SELECT {sums} FROM usage_windows FINAL") == events
    counted = value(settings, "SELECT sum(events) AS n, max(version) AS v FROM usage_windows FINAL")
    assert counted == {"n": 4000, "v": 16}
    for whose in ("tenant_id != ''", "budget_id = 'all-month'"):
        ledgers = f"SELECT sum(settled_pusd) AS s FROM budget_ledgers FINAL WHERE {whose}"
        assert value(settings, ledgers) == {"s": events["total_cost_pusd"]}
    stored = query_text(settings, EVERYTHING, "TSV")
    assert query_text(generated(node, "again", 1), EVERYTHING, "TSV") == stored
    assert query_text(generated(node, "other", 2), EVERYTHING, "TSV") != stored


def test_the_benchmark_reports_figures(tmp_path: Path) -> None:
    """Sizes and times are those of a real server; each query of the cookbook was answered."""
    with ClickHouseNode(tmp_path) as node:
        report = measure(node.settings, Scale(80_000, 10, until_now())).as_dict()
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert figures["cookbook_queries"]["value"] == len(recipes())
    assert all(timing["rows"] > 0 for timing in report["details"])
    assert {timing["reads_events"] for timing in report["details"]} == {True, False}
    assert 1 < figures["events_per_window_row"]["value"] < 20
    assert figures["usage_events_rows_per_event"]["value"] >= 1
    assert figures["usage_events_bytes_per_event"]["value"] > 20
    assert figures["cookbook_median"]["reach"] == 300
    assert report["machine"]["clickhouse"]
    json.dumps(report)
