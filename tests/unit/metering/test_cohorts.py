"""Cohorts: who is compared with whom, and how long an hour can change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.builders import NOW, arrived, usage

from sluice.metering import cohorts
from sluice.metering.cohorts import HOUR_US, Cohort, CohortHour, cohort_of
from sluice.metering.columnar.cohorts import CohortTable
from sluice.metering.columnar.usage import Usage, whole_usage
from sluice.money import INT64_MAX
from sluice.wire.codec import decode, encode
from sluice.wire.columns import read_usage
from sluice.wire.layout import layout

CHAT = Cohort("event", "chat", "m", "1k", "")


@pytest.mark.parametrize(
    ("tokens", "name"),
    [(0, "1k"), (1024, "1k"), (1025, "4k"), (65_536, "64k"), (262_144, "256k"), (262_145, "max")],
)
def test_upper_bounds_belong_to_their_class(tokens: int, name: str) -> None:
    """A class ends with its upper bound."""
    assert cohorts.size_class(tokens) == name


def test_tenants_share_a_cohort() -> None:
    """Operation, answering model, length and tool decide; tenant and project do not."""
    event = arrived(request_model="asked", response_model="m", input_tokens=5, tenant_id="x")
    assert cohort_of(event) == cohort_of(event | {"tenant_id": "y", "project_id": "z"}) == CHAT


def test_a_tool_call_has_no_length() -> None:
    """Of tools the name counts."""
    event = arrived(event_type="tool", operation_name="execute_tool", request_model="m",
                    tool_name="search", input_tokens=5000)  # fmt: skip
    assert cohort_of(event) == Cohort("event", "execute_tool", "m", "", "search")


def published(table: CohortTable) -> list[dict[str, Any]]:
    """Rows that are to be published now."""
    keys = table.take_dirty()
    values = layout("CohortRow").write(table.columns(keys, 2, NOW, 1), len(keys))
    return [decode(value)[1] for value in values]


def run_of(*events: dict[str, Any]) -> Usage:
    """Events as columns."""
    return whole_usage(read_usage([encode("UsageEvent", event) for event in events]))[0]


@pytest.mark.parametrize(
    ("over", "counted"),
    [({}, True), ({"event_type": "gpu_adjustment"}, False), ({"event_type": "tool"}, True),
     ({"event_type": "embedding"}, True),
     ({"event_type": "correction", "corrects_event_id": "e"}, False),
     ({"outcome": "rejected"}, False), ({"outcome": "queued_out"}, False),
     ({"event_type": "tool", "outcome": "throttled"}, False), ({"outcome": "cancelled"}, True)],
)  # fmt: skip
def test_only_work_that_ran_says_what_is_normal(over: dict[str, Any], *, counted: bool) -> None:
    """Refused requests and corrections are no norm, cancelled ones were worked on."""
    table, at = CohortTable(HOUR_US), np.array([NOW])
    table.add(run_of(usage(**over)), np.array([5]), np.array([False]), at)
    assert len(table) == 0
    table.add(run_of(usage(**over)), np.array([5]), np.array([True]), at)
    assert len(table) == counted


def test_an_hour_takes_events_until_the_lateness_is_over() -> None:
    """One microsecond beyond hour + lateness the hour is over."""
    table = CohortTable(HOUR_US)
    one, _ = whole_usage(read_usage([encode("UsageEvent", usage())]))
    cost, yes = np.array([7]), np.array([True])
    table.add(one, cost, yes, np.array([NOW + 2 * HOUR_US + 1]))
    assert table.hours() == []
    table.add(one, cost, yes, np.array([NOW + 2 * HOUR_US]))
    assert [key.hour_start for key in table.hours()] == [NOW]


def test_rows_are_published_once_and_evicted_when_over() -> None:
    """A dirty row stays; a published one leaves once its hour cannot change."""
    table, key = CohortTable(HOUR_US), CohortHour(CHAT, NOW)
    table.add_one(key, 7, 3)
    table.evict(NOW + 3 * HOUR_US)
    (row,) = published(table)
    assert (row["events"], row["model"], len(row["input_histogram"])) == (1, CHAT.model, 1)
    assert published(table) == []
    table.evict(NOW + 2 * HOUR_US)
    assert table.hours() == [key]
    table.evict(NOW + 3 * HOUR_US)
    assert table.hours() == []
    assert table.take_changed() == ([], [key])


def test_an_hour_that_is_full_takes_no_more() -> None:
    """Amounts beyond 64 bits are left out of the norm instead of stopping the partition."""
    table, key = CohortTable(HOUR_US), CohortHour(CHAT, NOW)
    for cost in (INT64_MAX, INT64_MAX, 1):
        table.add_one(key, cost, 0)
    (row,) = published(table)
    assert row["events"] == 2
    assert sum(bucket["cost_pusd"] for bucket in row["cost_histogram"]) == INT64_MAX + 1


def test_more_hours_than_there_was_room_for_at_first() -> None:
    """Tables grow, slots of hours that are gone serve again, and a stored row comes back equal."""
    table = CohortTable(HOUR_US)
    for round_ in range(2):
        for hour in range(700):
            table.add_one(CohortHour(CHAT, NOW + (700 * round_ + hour) * HOUR_US), hour, 1)
        published(table)
        table.evict(NOW + (700 * round_ + 600) * HOUR_US)
    assert [sum(row["count"] for row in r["cost_histogram"]) for r in _all(table)] == [1] * 102


def _all(table: CohortTable) -> list[dict[str, Any]]:
    keys = table.hours()
    values = layout("CohortRow").write(table.columns(keys, 2, NOW, 1), len(keys))
    return [decode(value)[1] for value in values]


def test_rows_of_hours_and_partitions_merge() -> None:
    """Two partitions' hours of a cohort are one cohort."""
    table = CohortTable(HOUR_US)
    for hour, cost in ((NOW, 7), (NOW + HOUR_US, 9), (NOW + HOUR_US, 7)):
        table.add_one(CohortHour(CHAT, hour), cost, 3)
    records = published(table)
    assert records[0]["source_partition"] == 2
    merged = cohorts.merged(records)[CHAT]
    assert (merged.events, sorted(merged.cost.values())) == (3, [[1, 9], [2, 14]])
