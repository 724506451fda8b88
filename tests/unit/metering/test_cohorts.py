"""Cohorts: who is compared with whom, and how long an hour can change."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, arrived

from sluice.metering import cohorts
from sluice.metering.cohorts import HOUR_US, Cohort, CohortHour, Cohorts, cohort_of, is_counted
from sluice.money import INT64_MAX

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


@pytest.mark.parametrize(
    ("over", "counted"),
    [({}, True), ({"event_type": "gpu_adjustment"}, False), ({"event_type": "correction"}, False),
     ({"outcome": "rejected"}, False), ({"outcome": "queued_out"}, False),
     ({"outcome": "cancelled"}, True)],
)  # fmt: skip
def test_only_work_that_ran_says_what_is_normal(over: dict[str, Any], *, counted: bool) -> None:
    """Refused requests and corrections are no norm, cancelled ones were worked on."""
    assert is_counted({"event_type": "inference", "outcome": "ok"} | over, 5) is counted
    assert not is_counted({"event_type": "inference", "outcome": "ok"} | over, None)


def test_an_hour_takes_events_until_the_lateness_is_over() -> None:
    """One microsecond beyond hour + lateness the hour is over."""
    rows = Cohorts(HOUR_US)
    assert rows.hour_of(NOW + 5, NOW + 2 * HOUR_US) == NOW
    assert rows.hour_of(NOW + 5, NOW + 2 * HOUR_US + 1) is None


def test_rows_are_published_once_and_evicted_when_over() -> None:
    """A dirty row stays; a published one leaves once its hour cannot change."""
    rows, key = Cohorts(HOUR_US), CohortHour(CHAT, NOW)
    rows.add(key, 7, 3)
    assert rows.evict(NOW + 3 * HOUR_US) == []
    ((found, sums),) = rows.take_dirty()
    assert (found, sums.events, list(sums.input.values())) == (key, 1, [[1, 0]])
    assert list(rows.take_dirty()) == []
    assert rows.evict(NOW + 2 * HOUR_US) == []
    assert rows.evict(NOW + 3 * HOUR_US) == [key]


def test_an_hour_that_is_full_takes_no_more() -> None:
    """Amounts beyond 64 bits are left out of the norm instead of stopping the partition."""
    rows, key = Cohorts(HOUR_US), CohortHour(CHAT, NOW)
    rows.add(key, INT64_MAX, 0)
    rows.add(key, INT64_MAX, 0)
    rows.add(key, 1, 0)
    assert rows.rows[key].events == 2
    assert sum(cost for _, cost in rows.rows[key].cost.values()) == INT64_MAX + 1


def test_rows_of_hours_and_partitions_merge() -> None:
    """Two partitions' hours of a cohort are one cohort."""
    rows = Cohorts(HOUR_US)
    for hour, cost in ((NOW, 7), (NOW + HOUR_US, 9), (NOW + HOUR_US, 7)):
        rows.add(CohortHour(CHAT, hour), cost, 3)
    records = [cohorts.row_record(k, sums, 2, NOW, 1) for k, sums in rows.take_dirty()]
    assert records[0]["source_partition"] == 2
    merged = cohorts.merged(records)[CHAT]
    assert (merged.events, sorted(merged.cost.values())) == (3, [[1, 9], [2, 14]])
