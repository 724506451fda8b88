"""When a new baseline is due, and which hours it looks at."""

from __future__ import annotations

from typing import Any

from tests.cohort_records import cohort_record

from sluice.metering import histogram
from sluice.metering.cohorts import HOUR_US, Cohort, CohortHour, CohortSums
from sluice.metering.refresh import DAYS, Refresh

CHAT = Cohort("event", "chat", "m", "1k", "")
SLOT = ("chat", "m", "1k", "")
H = 500_000 * HOUR_US


def row(hour: int, cost: int, watermark: int, times: int = 200) -> dict[str, Any]:
    """A CohortRow of one hour."""
    sums = CohortSums(events=times)
    histogram.add(sums.cost, cost, cost * times, count=times)
    histogram.add(sums.input, 100, 0, count=times)
    return cohort_record(CohortHour(CHAT, hour), sums, watermark)


def test_nothing_is_due_before_an_hour_has_closed() -> None:
    """One microsecond before its end the hour is open."""
    refresh = Refresh()
    refresh.take(b"a", row(H, 5, H + HOUR_US - 1))
    assert refresh.due() is None
    refresh.take(b"a", row(H, 5, H + HOUR_US))
    assert refresh.due() == H + HOUR_US


def test_a_computed_hour_is_not_due_again() -> None:
    """The next baseline waits for the next hour, also where nothing new came of the last one."""
    refresh = Refresh()
    refresh.take(b"a", row(H, 5, H + HOUR_US))
    first = refresh.compute(H + HOUR_US)
    assert first is not None
    assert first.computed_to == H + HOUR_US
    assert refresh.due() is None
    refresh.take(b"b", row(H + HOUR_US, 5, H + 2 * HOUR_US, times=0))
    assert refresh.due() == H + 2 * HOUR_US
    assert refresh.compute(H + 2 * HOUR_US) is None
    assert refresh.due() is None


def test_hours_still_open_do_not_count() -> None:
    """Only the closed hour's cost is in the norm; `now` takes all of it."""
    refresh = Refresh()
    refresh.take(b"a", row(H, 5, H + HOUR_US))
    refresh.take(b"b", row(H + HOUR_US, 10**9, H + HOUR_US + 5))
    everything = refresh.now()
    due = refresh.due()
    assert due is not None
    found = refresh.compute(due)
    assert found is not None
    assert (found.norms[SLOT].q95_pusd, found.norms[SLOT].events) == (5, 200)
    assert everything.norms[SLOT].events == 400


def test_a_newer_state_replaces_a_row_and_a_tombstone_removes_it() -> None:
    """Rows are absolute: the last one of a key counts."""
    refresh = Refresh()
    refresh.take(b"a", row(H, 10**9, H + HOUR_US))
    refresh.take(b"a", row(H, 5, H + HOUR_US))
    refresh.take(b"b", row(H, 10**9, H + HOUR_US))
    refresh.take(b"b", None)
    found = refresh.compute(H + HOUR_US)
    assert found is not None
    assert found.norms[SLOT].events == 200


def test_seven_days_are_looked_at() -> None:
    """An hour that began more than seven days before is forgotten."""
    span = DAYS * 24 * HOUR_US
    refresh = Refresh()
    refresh.take(b"a", row(H, 5, H + HOUR_US))
    refresh.take(b"b", row(H + span, 10**9, H + span + HOUR_US))
    assert refresh.due() == H + span + HOUR_US
    found = refresh.compute(H + span + HOUR_US)
    assert found is not None
    assert found.norms[SLOT].events == 200
    assert refresh.now().norms[SLOT].events == 200


def test_the_baseline_before_bounds_the_next_one() -> None:
    """What was published is where the next one starts from."""
    refresh = Refresh()
    refresh.take(b"a", row(H, 10_000, H + HOUR_US))
    before = refresh.compute(H + HOUR_US)
    assert before is not None
    successor = Refresh(before)
    successor.take(b"b", row(H + HOUR_US, 10**7, H + 2 * HOUR_US))
    after = successor.compute(H + 2 * HOUR_US)
    assert after is not None
    assert after.norms[SLOT].q95_pusd <= before.norms[SLOT].q95_pusd * 6 // 5
