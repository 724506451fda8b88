"""Window rows: which row an event belongs to, when rows are published, when they leave memory."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.metering.causes import NOTHING
from sluice.metering.labels import Bands, Label
from sluice.metering.rating import Part
from sluice.metering.row_sums import MEASURED, TOKENS
from sluice.metering.windows import (
    DELAY_US,
    FUTURE_US,
    WINDOW_US,
    WindowKey,
    Windows,
    row_record,
)

START = 1_800_000_000_000_000 // WINDOW_US * WINDOW_US
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


def event(**over: Any) -> dict[str, Any]:
    """A plain inference event in the window at START."""
    base: dict[str, Any] = {
        "event_type": "inference", "tenant_id": "acme", "project_id": "p", "request_model": "m",
        "response_model": None, "tool_name": None, "occurred_at": START, "outcome": "ok",
        "estimated_cost_pusd": None, "units": [], "slo_outcome": None, "rollback_reason": None,
        "risk_flags": [], "original_cost_pusd": None,
    }  # fmt: skip
    return base | dict.fromkeys(TOKENS, 0) | dict.fromkeys(MEASURED) | over


def label(cost: int | None) -> Label:
    """A label without a baseline."""
    amount = cost or 0
    parts = () if cost is None else (Part("output", 1, cost),)
    shares = (amount, *NOTHING[1:])
    return Label(cost, parts, Bands(amount, 0, 0), shares, NOTHING, None, "v1", None)


def add(windows: Windows, time: int, cost: int | None = 5, **over: Any) -> WindowKey:
    """Add one event at broker time `time` and return its row's key."""
    made = event(**over)
    key = windows.key_of(made, time)
    windows.add(key, made, None if made["event_type"] == "admission" else label(cost), time)
    return key


def test_sums_and_unknown_prices() -> None:
    """Tokens and costs add up; an unknown price is counted and adds no money."""
    windows = Windows(HOUR_US)
    add(windows, START, 7, input_tokens=3, cache_read_input_tokens=1)
    key = add(windows, START, None, input_tokens=4, latency_us=9)
    row = row_record(key, windows.rows[key], START, 1)
    assert (row["events"], row["requests"], row["input_tokens"]) == (2, 2, 7)
    assert (row["cost_pusd"], row["unpriced"]) == (7, 1)
    assert (row["input_uncached_tokens"], row["latency_us"], row["gpu_us"]) == (6, 9, None)
    assert row["outcomes"] == [{"key": "ok", "value": 2}]


def test_refusals_are_counted_apart_from_usage() -> None:
    """An admission event adds refused requests and averted money, no usage."""
    windows = Windows(HOUR_US)
    units = [{"key": "requests", "value": 3}]
    key = add(windows, START, 0, event_type="admission", outcome="rejected", units=units,
              estimated_cost_pusd=11)  # fmt: skip
    add(windows, START, 0, event_type="admission", units=[{"key": "requests", "value": 9}])
    row = windows.rows[key]
    assert (row.refused, row.averted_pusd, row.events, row.outcomes) == (3, 11, 0, {})


def test_a_future_timestamp_is_clamped() -> None:
    """A clock that runs ahead cannot open windows in the future."""
    key = Windows(HOUR_US).key_of(event(occurred_at=START + DAY_US), START)
    assert key.window_start == (START + FUTURE_US) // WINDOW_US * WINDOW_US


def test_late_usage_revises_an_open_row_and_then_gets_a_lane() -> None:
    """Late usage raises the revision once per publication; later it goes to its arrival date."""
    windows = Windows(HOUR_US)
    key = add(windows, START)
    closing = START + WINDOW_US + DELAY_US
    assert windows.close_due(closing) == [key]
    assert [k for k, _ in windows.take_dirty()] == [key]
    assert windows.rows[key].revision == 0
    add(windows, closing + 1)
    add(windows, closing + 2)
    assert windows.rows[key].revision == 1
    late = add(windows, START + 2 * HOUR_US)
    assert late.lane == "2027-01-15"
    assert windows.rows[late].events == 1
    assert windows.rows[key].events == 3


def test_rows_leave_memory_only_when_published_and_final() -> None:
    """A regular row goes after the lateness, a lane after its date, never before publication."""
    windows = Windows(HOUR_US)
    regular = add(windows, START)
    lane = add(windows, START + 2 * HOUR_US)
    assert windows.evict(START + 3 * HOUR_US) == []
    list(windows.take_dirty())
    assert windows.evict(START + 3 * HOUR_US) == [regular]
    assert windows.evict(START + 3 * DAY_US) == [lane]
    assert windows.rows == {}


def test_an_overflow_changes_nothing() -> None:
    """A sum beyond 64 bits is refused and the row keeps its value."""
    windows = Windows(HOUR_US)
    key = add(windows, START, 2**63 - 1)
    with pytest.raises(OverflowError):
        add(windows, START, 1, input_tokens=5)
    assert (windows.rows[key].events, windows.rows[key].tokens[0]) == (1, 0)


def test_next_due_is_the_first_open_window() -> None:
    """The owner knows when time alone has to close a row."""
    windows = Windows(HOUR_US)
    assert windows.next_due() is None
    add(windows, START)
    assert windows.next_due() == START + WINDOW_US + DELAY_US
    windows.close_due(START + WINDOW_US + DELAY_US)
    assert windows.next_due() is None


def test_a_row_that_was_published_and_dropped_in_the_log_is_gone() -> None:
    """Reading dirty, clean and removed states, whatever of them is left, leaves nothing to do."""
    windows = Windows(HOUR_US)
    key = add(windows, START)
    sums = windows.rows[key]
    windows.put(key, sums)
    windows.drop(key)
    assert (windows.rows, list(windows.take_dirty())) == ({}, [])
    windows.put(key, sums)
    sums.dirty = False
    windows.put(key, sums)
    assert windows.dirty == set()


def test_usage_that_could_be_there_twice_goes_to_a_lane() -> None:
    """However recent, unprotected usage keeps out of the regular row."""
    windows = Windows(HOUR_US)
    assert windows.key_of(event(), START).lane == ""
    assert windows.key_of(event(), START, unprotected=True).lane == "2027-01-15"


def test_task_tails_are_added_where_there_is_room() -> None:
    """Null until a task has a baseline; a row whose tails are near 64 bits refuses more."""
    windows = Windows(HOUR_US)
    key = add(windows, START)
    windows.check_task_tail(key, 2**63 - 1)
    windows.add_task_tail(key, None)
    assert windows.rows[key].task_tail_pusd is None
    windows.add_task_tail(key, -3)
    windows.check_task_tail(key, 2**63 - 4)
    with pytest.raises(OverflowError):
        windows.check_task_tail(key, 2**63 - 3)
