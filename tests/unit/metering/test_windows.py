"""Window rows: which row an event belongs to, when rows are published, when they leave memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.builders import usage
from tests.window_columns import (
    Labelled,
    add,
    check,
    ints,
    keys_of,
    row_of,
    rows_of,
    usage_of,
)

from sluice.metering.columnar.window_state import (
    WINDOW_KEY,
    WINDOW_STATE,
    drop,
    key_columns,
    load,
    state_columns,
)
from sluice.metering.columnar.windows import WindowTable
from sluice.metering.quantities import refused_requests
from sluice.metering.windows import DELAY_US, FUTURE_US, WINDOW_US, WindowKey, watermark
from sluice.money import INT64_MAX
from sluice.wire.column_types import Columns
from sluice.wire.layout import Layout

START = 1_800_000_000_000_000 // WINDOW_US * WINDOW_US
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
CLOSING = START + WINDOW_US + DELAY_US


def table() -> WindowTable:
    """A table without rows."""
    return WindowTable(HOUR_US)


def put(
    windows: WindowTable, time: int = START, cost: int | None = 5, task_tail: int | None = None,
    **over: Any,
) -> WindowKey:  # fmt: skip
    """Add one event of the window at START at broker time `time`; its row's key."""
    event = usage(**{"occurred_at": START, "started_at": START} | over)
    (key,) = add(windows, Labelled(event, time, cost, task_tail_pusd=task_tail))
    return key


def key_of(time: int, *, unprotected: bool = False, **over: Any) -> WindowKey:
    """The row that an event belongs to when it arrives at `time`."""
    windows, event = table(), usage(**{"occurred_at": START} | over)
    keys = keys_of(windows, [Labelled(event, time, unprotected=unprotected)])
    return windows.keys(windows.open(keys))[0]


def published(windows: WindowTable, time: int = START) -> dict[WindowKey, dict[str, Any]]:
    """Rows that are to be published now."""
    return rows_of(windows, windows.take_dirty(), time)


def test_sums_and_unknown_prices() -> None:
    """Tokens and costs add up; an unknown price is counted and adds no money."""
    windows = table()
    put(windows, START, 7, input_tokens=3, cache_read_input_tokens=1)
    put(windows, START, None, input_tokens=4, latency_us=9)
    row = row_of(windows)
    assert (row["events"], row["requests"], row["input_tokens"]) == (2, 2, 7)
    assert (row["cost_pusd"], row["unpriced"]) == (7, 1)
    assert (row["input_uncached_tokens"], row["latency_us"], row["gpu_us"]) == (6, 9, None)
    assert row["outcomes"] == [{"key": "ok", "value": 2}]
    assert row["watermark"] == watermark(START) == START - DELAY_US


def test_a_row_is_known_by_tenant_project_model_tool_minute_and_lane() -> None:
    """The model that answered comes before the one asked for; no tool is ''."""
    assert key_of(START, request_model="a") == WindowKey("acme", "chat", "a", "", START, "")
    assert key_of(START, request_model="a", response_model="b").model == "b"
    assert key_of(START, request_model="a", response_model="").model == "a"
    assert key_of(START, tool_name="search").tool == "search"
    assert key_of(START, occurred_at=START - 1).window_start == START - WINDOW_US


def test_refusals_are_counted_apart_from_usage() -> None:
    """Refused requests and averted money add up, no usage does."""
    windows, event = table(), usage(occurred_at=START, outcome="rejected")
    slots = windows.open(keys_of(windows, [Labelled(event), Labelled(event)]))
    windows.refuse(slots, ints(3, 4), ints(11, 0))
    row = row_of(windows)
    assert (row["refused"], row["averted_pusd"], row["events"], row["outcomes"]) == (7, 11, 0, [])
    assert windows.refusals(int(slots[0])) == (7, 11)
    assert windows.refusals(-1) == (0, 0)


def test_an_admission_event_says_how_many_requests_were_refused() -> None:
    """Of its units the requests count; where they were let through none was refused."""
    units = [{"key": "requests", "value": 3}, {"key": "images", "value": 9}]
    assert refused_requests({"outcome": "rejected", "units": units}) == 3
    assert refused_requests({"outcome": "ok", "units": units}) == 0


def test_a_future_timestamp_is_clamped() -> None:
    """A clock that runs ahead cannot open windows in the future, and is counted."""
    ahead = key_of(START, occurred_at=START + DAY_US)
    assert ahead.window_start == (START + FUTURE_US) // WINDOW_US * WINDOW_US
    windows = table()
    put(windows, START, occurred_at=START + FUTURE_US)
    put(windows, START, occurred_at=START + FUTURE_US + 1)
    assert row_of(windows)["clamped"] == 1


def test_late_usage_revises_an_open_row_and_then_gets_a_lane() -> None:
    """Late usage raises the revision once per publication; later it goes to its arrival date."""
    windows = table()
    key = put(windows)
    windows.close_due(CLOSING - 1)
    assert windows.next_due() == CLOSING
    windows.close_due(CLOSING)
    assert {k: row["revision"] for k, row in published(windows).items()} == {key: 0}
    put(windows, CLOSING + 1)
    put(windows, CLOSING + 2)
    assert {k: row["revision"] for k, row in published(windows).items()} == {key: 1}
    assert put(windows, CLOSING + HOUR_US) == key
    late = put(windows, CLOSING + HOUR_US + 1)
    assert late == key._replace(lane="2027-01-15")
    found = rows_of(windows)
    assert (found[late]["events"], found[key]["events"], found[key]["revision"]) == (1, 4, 2)


def test_usage_before_the_first_publication_after_closing_is_no_revision() -> None:
    """Nobody saw the row closed yet."""
    windows = table()
    put(windows)
    windows.close_due(CLOSING)
    put(windows, CLOSING)
    assert row_of(windows)["revision"] == 0


def test_rows_leave_memory_only_when_published_and_final() -> None:
    """A regular row goes after the lateness, a lane after its date, never before publication."""
    windows = table()
    regular = put(windows)
    lane = put(windows, START + 2 * HOUR_US)
    assert windows.evict(START + 3 * HOUR_US) == 0
    windows.take_dirty()
    assert windows.evict(CLOSING + HOUR_US) == 0
    assert windows.evict(CLOSING + HOUR_US + 1) == 1
    assert windows.keys(windows.slots()) == [lane]
    assert windows.take_changed()[1] == [regular]
    assert windows.evict(START + 3 * DAY_US) == 1
    assert (len(windows), windows.take_changed()[1]) == (0, [lane])


def test_rows_are_published_in_the_order_of_their_keys() -> None:
    """Tenant, project, model, tool, minute, lane: as tuples of them are ordered."""
    windows = table()
    for tenant, tool, minute in (("b", "x", 0), ("a", "y", 0), ("a", "x", 1), ("ab", None, 0),
                                 ("a", "x", 0), ("a", None, 2)):  # fmt: skip
        put(windows, START + 200_000_000, tenant_id=tenant, tool_name=tool,
            occurred_at=START + minute * WINDOW_US)  # fmt: skip
    keys = list(published(windows))
    assert len(keys) == 6
    assert keys == sorted(keys)
    assert published(windows) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [({"input_tokens": INT64_MAX}, {"input_tokens": 1}), ({"gpu_us": INT64_MAX}, {"gpu_us": 1}),
     ({"cost": INT64_MAX}, {"cost": 1})],
)  # fmt: skip
def test_an_overflow_changes_nothing(first: dict[str, int], second: dict[str, int]) -> None:
    """A sum beyond 64 bits is refused and the row keeps its value."""
    windows = table()
    put(windows, **{"input_tokens": 0, "output_tokens": 0} | first)
    before = row_of(windows)
    more = {"input_tokens": 0, "output_tokens": 0} | second
    event = usage(occurred_at=START, **{k: v for k, v in more.items() if k != "cost"})
    with pytest.raises(OverflowError):
        check(windows, Labelled(event, START, more.get("cost", 0)))
    assert row_of(windows) == before
    check(windows, Labelled(usage(occurred_at=START, input_tokens=0), START, 0))


def test_a_new_row_takes_what_64_bits_hold() -> None:
    """To check an event does not open its row."""
    windows = table()
    check(windows, Labelled(usage(occurred_at=START, input_tokens=INT64_MAX), START, INT64_MAX))
    assert len(windows) == 0


def test_the_largest_amount_of_rows_is_known() -> None:
    """Whatever its sign and its column; a row that is not there has none."""
    windows = table()
    small, large = put(windows, cost=3, input_tokens=0), put(windows, cost=-900, tool_name="t")
    slots = windows.slots()
    assert windows.keys(slots) == [small, large]
    assert windows.most(ints(-1)) == 0
    assert windows.most(slots[:1]) == 100  # output tokens
    assert windows.most(np.append(slots, -1)) == 900


def test_next_due_is_the_first_open_window() -> None:
    """The owner knows when time alone has to close a row."""
    windows = table()
    assert windows.next_due() is None
    put(windows, START, occurred_at=START)
    put(windows, START, occurred_at=START - WINDOW_US)
    assert windows.next_due() == CLOSING - WINDOW_US
    windows.close_due(CLOSING - WINDOW_US)
    assert windows.next_due() == CLOSING
    windows.close_due(CLOSING)
    assert windows.next_due() is None


def test_what_changed_is_told_once() -> None:
    """Adding, closing and publishing change what is to be stored; nothing else does."""
    windows = table()
    assert not windows.is_changed()
    assert not windows.is_dirty()
    put(windows)
    assert (windows.is_changed(), windows.is_dirty()) == (True, True)
    assert len(windows.take_changed()[0]) == 1
    assert not windows.is_changed()
    windows.close_due(CLOSING)
    assert len(windows.take_changed()[0]) == 1
    windows.take_dirty()
    assert (windows.is_changed(), windows.is_dirty()) == (True, False)
    windows.evict(START + DAY_US)
    slots, gone = windows.take_changed()
    assert (len(slots), len(gone), windows.is_changed()) == (0, 1, False)


def stored(windows: WindowTable) -> Columns:
    """All rows as they are read back from the log."""
    slots, form = windows.slots(), Layout(WINDOW_STATE)
    return form.read(list(form.write(state_columns(windows, slots), len(slots))))


def test_a_row_that_was_published_and_dropped_in_the_log_is_gone() -> None:
    """Reading dirty, clean and removed states, whatever of them is left, leaves nothing to do."""
    windows = table()
    key = put(windows)
    dirty = stored(windows)
    row = row_of(windows)
    windows.take_dirty()
    clean, form = stored(windows), Layout(WINDOW_KEY)
    gone = form.read(list(form.write(key_columns([key]), 1)))
    again = table()
    load(again, dirty.columns, 1)
    assert (row_of(again), again.is_dirty(), again.is_changed()) == (row, True, False)
    load(again, clean.columns, 1)
    assert (row_of(again), again.is_dirty()) == (row, False)
    drop(again, gone.columns)
    drop(again, gone.columns)
    assert (len(again), again.is_changed()) == (0, False)
    load(again, clean.columns, 1)
    assert row_of(again) == row


def test_usage_that_could_be_there_twice_goes_to_a_lane() -> None:
    """However recent, unprotected usage keeps out of the regular row."""
    assert key_of(START).lane == ""
    assert key_of(START, unprotected=True).lane == "2027-01-15"
    windows, time = table(), ints(START, START + DAY_US)
    protected = np.array([False, True])
    keys = windows.keys_of(usage_of([usage(occurred_at=START)] * 2), time, protected)
    assert windows.is_late(keys).tolist() == [False, True]
    assert [key.lane for key in windows.keys(windows.open(keys))] == ["", "2027-01-16"]


def test_task_tails_are_added_where_there_is_room() -> None:
    """Null until a task has a baseline; a row whose tails are near 64 bits refuses more."""
    windows, more = table(), Labelled(usage(occurred_at=START), START, 0)
    put(windows, task_tail=None)
    assert row_of(windows)["task_tail_pusd"] is None
    check(windows, more, INT64_MAX)
    put(windows, task_tail=-3)
    assert row_of(windows)["task_tail_pusd"] == -3
    check(windows, more, INT64_MAX - 3)
    with pytest.raises(OverflowError):
        check(windows, more, INT64_MAX - 2)
    put(windows, task_tail=3)
    assert row_of(windows)["task_tail_pusd"] == 0


def test_names_that_no_row_has_are_forgotten() -> None:
    """However many tenants come and go, texts stay few, and rows that stay keep theirs."""
    windows = table()
    put(windows, tenant_id="before", slo_outcome="what follows it gets other numbers")
    stays = put(windows, START + DAY_US, tenant_id="stays", occurred_at=START + DAY_US,
                risk_flags=["burst"])  # fmt: skip
    before = rows_of(windows)[stays]
    windows.take_dirty()
    assert windows.evict(START + DAY_US) == 1
    for begin in range(0, 3000, 500):
        add(windows, *(
            Labelled(usage(n, tenant_id=f"t{n}", occurred_at=START), START)
            for n in range(begin, begin + 500)
        ))  # fmt: skip
        windows.take_dirty()
        assert windows.evict(START + DAY_US) == 500
    assert len(windows.names) < 1200
    assert rows_of(windows) == {stays: before}
    assert put(windows, START + DAY_US, tenant_id="stays", occurred_at=START + DAY_US) == stays
    assert rows_of(windows)[stays]["events"] == 2
