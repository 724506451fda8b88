"""Columns and single records on the real engine: the same rows are in the table."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import MODEL, NOW, TOPICS, FakeRecord, FakeReferences, record, usage

from sluice.metering.prices import default_book
from sluice.runtime.storing import Position, Storing
from sluice.runtime.storing_columns import ColumnStoring, Taken
from sluice.settings import Settings
from sluice.warehouse.client import query_text
from sluice.warehouse.migrations import migrate
from sluice.warehouse.node import ClickHouseNode
from sluice.warehouse.writer import Writer
from sluice.wire.codec import encode

pytestmark = pytest.mark.integration


def database(node: ClickHouseNode, name: str) -> Settings:
    """A database of its own, with all tables."""
    settings = node.settings.model_copy(update={"clickhouse_database": name})
    migrate(settings)
    return settings


def stored(settings: Settings, table: str) -> list[str]:
    """Every row of a table with all of its columns."""
    text = query_text(settings, f"SELECT * FROM {table} ORDER BY version", "JSONEachRow")
    return text.decode().splitlines()


def events() -> list[dict[str, Any]]:
    """Usage with every kind of column filled and left empty."""
    whole: dict[str, Any] = {
        "task_id": "größer", "agent_name": "writer", "stream": True, "tool_writes": False,
        "gpu_us": 5, "units": [{"key": "images", "value": 3}], "risk_flags": ["burst", "loop"],
        "attributes": [{"key": "team", "value": "a"}], "prefix_block_ids": [1, -(2**63)],
        "scheduled_at": NOW, "service_tier": "batch", "cost_pusd": 5, "cost_source": "provider",
    }  # fmt: skip
    made = [usage(n, **(whole if n % 5 == 0 else {})) for n in range(1, 150)]
    others: list[dict[str, Any]] = [
        {"input_tokens": 0, "output_tokens": 0, "event_type": "tool", "tool_name": "search"},
        {"event_type": "admission", "outcome": "rejected", "tenant_id": "beta"},
        {"request_model": "unheard-of", "response_model": MODEL, "stream": False},
    ]
    return [*made, *(usage(n, **over) for n, over in enumerate(others, 150))]


def test_usage_is_stored_alike(node: ClickHouseNode) -> None:
    """Two tables, filled in both ways, have the same rows in all columns."""
    references = FakeReferences()
    name = references.put(default_book())
    made = [record(n, event) for n, event in enumerate(events())]
    rows, _ = Storing(TOPICS, references, 1).rows(TOPICS.usage, 2, made, _at(name))
    taken, _ = ColumnStoring(TOPICS, references, 1).take(TOPICS.usage, 2, made, _at(name))
    assert len(taken.rows["usage_events"]) == 29
    slow, fast = database(node, "slow"), database(node, "fast")
    assert Writer(slow).insert_rows("usage_events", rows["usage_events"]) == len(made)
    assert _insert(Writer(fast), "usage_events", taken) == len(made)
    assert stored(fast, "usage_events") == stored(slow, "usage_events")


def test_rows_of_the_meter_are_stored_alike(node: ClickHouseNode) -> None:
    """Maps, histograms and nulls of window rows are the same in both ways."""
    row = {
        "tenant_id": "t", "project_id": "p", "model": "m", "tool": "", "window_start": NOW,
        "events": 1, "requests": 1, "input_tokens": 10, "input_uncached_tokens": 10,
        "cache_read_input_tokens": 0, "cache_write_input_tokens": 0, "output_tokens": 5,
        "output_text_tokens": 5, "reasoning_output_tokens": 0, "cost_pusd": 7, "unpriced": 0,
        "refused": 0, "averted_pusd": 0, "watermark": NOW, "revision": 0,
        "outcomes": [{"key": "ok", "value": 1}],
    }  # fmt: skip
    many = [row | {"model": f"m{n % 3}", "tool": str(n), "version": n,
                   "risk_flags": [{"key": "burst", "value": n}] * (n % 2)}
            for n in range(1, 100)]  # fmt: skip
    made = [
        FakeRecord(n, NOW // 1000, b"t", encode("WindowRow", each)) for n, each in enumerate(many)
    ]
    rows, _ = Storing(TOPICS, FakeReferences(), 0).rows(TOPICS.windows, 0, made, Position(0))
    taken, _ = ColumnStoring(TOPICS, FakeReferences(), 0).take(TOPICS.windows, 0, made, Position(0))
    assert not taken.rows.get("usage_windows")
    slow, fast = database(node, "slow_rows"), database(node, "fast_rows")
    Writer(slow).insert_rows("usage_windows", rows["usage_windows"])
    assert _insert(Writer(fast), "usage_windows", taken) == len(made)
    assert stored(fast, "usage_windows") == stored(slow, "usage_windows")


def _at(book: tuple[str, str, str]) -> Position:
    return Position(0, price_book=book[1:])


def _insert(writer: Writer, table: str, taken: Taken) -> int:
    return writer.insert_batch(table, taken.rows[table], taken.columns[table])
