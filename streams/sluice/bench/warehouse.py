"""The warehouse on generated usage: rows and bytes per event, and how long the cookbook takes.

It runs on the embedded server as users have it, through its HTTP front and with its default memory.
Days that are over are merged first, as the tables' settings do after six hours; windows of the
current month are read in the parts and versions in which they arrived.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from sluice.bench.figures import Figure, Report, machine
from sluice.bench.usage_data import Scale, fill
from sluice.settings import Settings
from sluice.warehouse.client import query_text
from sluice.warehouse.cookbook import Recipe, recipes, sources
from sluice.warehouse.migrations import migrate
from sluice.warehouse.node import ClickHouseNode

COOKBOOK_MEDIAN_MS = 300
EVENT_QUERY_MS = 3000
RUNS = 3

_PARTITIONS = """
SELECT DISTINCT table, partition_id AS id FROM system.parts
WHERE active AND database = currentDatabase() AND table IN ('usage_events', 'usage_windows')
"""
_SIZES = """
SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes FROM system.parts
WHERE active AND database = currentDatabase() GROUP BY table
"""

Tell = Callable[[str], None]


class Timing(NamedTuple):
    """How long one query of the cookbook took, in ms, over `RUNS` runs."""

    query: str
    reads_events: bool
    rows: int
    best_ms: float
    median_ms: float


def run(scale: Scale, tell: Tell = lambda _: None) -> Report:
    """Fill a warehouse of its own, measure, remove it again."""
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    try:
        with ClickHouseNode(folder) as node:
            return measure(node.settings, scale, tell)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(settings: Settings, scale: Scale, tell: Tell = lambda _: None) -> Report:
    """The figures of an empty server."""
    migrate(settings)
    start = time.monotonic()
    fill(settings, scale, tell)
    filled_s = time.monotonic() - start
    _merge(settings, before=f"{scale.until:%Y%m%d}")
    tell("cookbook")
    timings = [_timed(settings, recipe) for recipe in recipes()]
    tell("rows and bytes")
    _merge(settings)
    stored = _stored(settings)
    return Report(
        "warehouse",
        {**machine(), "clickhouse": _lines(settings, "SELECT version() AS v")[0]["v"]},
        {"events": scale.events, "days": scale.days, "seed": scale.seed, "runs": RUNS,
         "clickhouse_memory_bytes": settings.clickhouse_memory_bytes,
         "filled_s": round(filled_s, 1)},
        [*_time_figures(timings), *_size_figures(stored, scale)],
        [timing._asdict() for timing in timings],
    )  # fmt: skip


def _time_figures(timings: list[Timing]) -> list[Figure]:
    windows = [t for t in timings if not t.reads_events]
    events = [t for t in timings if t.reads_events]
    of_windows = [t.median_ms for t in windows]
    return [
        Figure("cookbook_queries", len(timings), "queries"),
        Figure("cookbook_median", round(median(of_windows), 1), "ms", COOKBOOK_MEDIAN_MS),
        Figure("cookbook_median_best_runs", round(median(t.best_ms for t in windows), 1), "ms"),
        Figure("cookbook_max", max(of_windows), "ms"),
        Figure("event_queries_max", max(t.median_ms for t in events), "ms", EVENT_QUERY_MS),
        Figure("event_queries_median", round(median(t.median_ms for t in events), 1), "ms"),
    ]


def _size_figures(stored: dict[str, dict[str, int]], scale: Scale) -> list[Figure]:
    windows, events = stored["usage_windows"], stored["usage_events"]
    return [
        Figure("window_rows", windows["rows"], "rows"),
        Figure("events_per_window_row", round(scale.events / windows["rows"], 2), "events"),
        Figure("window_rows_per_event", round(windows["rows"] / scale.events, 4), "rows"),
        Figure("usage_windows_bytes_per_row", round(windows["bytes"] / windows["rows"], 1), "B"),
        Figure("usage_windows_bytes_per_event", round(windows["bytes"] / scale.events, 1), "B"),
        Figure("usage_events_rows_per_event", round(events["rows"] / scale.events, 4), "rows"),
        Figure("usage_events_bytes_per_event", round(events["bytes"] / scale.events, 1), "B"),
    ]


def _timed(settings: Settings, recipe: Recipe) -> Timing:
    times = []
    answer = b""
    for _ in range(RUNS):
        start = time.perf_counter()
        answer = query_text(settings, recipe.sql, "JSONEachRow")
        times.append((time.perf_counter() - start) * 1000)
    rows = len(answer.splitlines())
    reads_events = "usage_events" in sources(recipe.sql)
    return Timing(str(recipe), reads_events, rows, round(min(times), 1), round(median(times), 1))


def _merge(settings: Settings, *, before: str = "9") -> None:
    """Merge partitions of usage (days or months, such as 20270115) that are before `before`."""
    for part in _lines(settings, _PARTITIONS):
        if part["id"] < before[: len(part["id"])]:
            table, partition = part["table"], part["id"]
            query_text(settings, f"OPTIMIZE TABLE {table} PARTITION ID '{partition}' FINAL", "TSV")


def _stored(settings: Settings) -> dict[str, dict[str, int]]:
    rows = _lines(settings, _SIZES)
    return {row["table"]: {"rows": int(row["rows"]), "bytes": int(row["bytes"])} for row in rows}


def _lines(settings: Settings, sql: str) -> list[dict[str, Any]]:
    text = query_text(settings, sql, "JSONEachRow").decode()
    return [json.loads(line) for line in text.splitlines()]
