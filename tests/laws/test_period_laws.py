"""Calendar periods: every instant has exactly one, and they follow each other without a gap."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.periods import PERIOD_KINDS, PeriodKind, period_of

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Asia/Kathmandu",
]
instants = st.integers(1_600_000_000_000_000, 2_000_000_000_000_000)
HOUR_US = 3_600_000_000


@given(kind=st.sampled_from(PERIOD_KINDS), zone=st.sampled_from(ZONES), instant=instants)
def test_periods_tile_time(kind: PeriodKind, zone: str, instant: int) -> None:
    """The period holds its instant, touches its neighbours, and both ends agree on it."""
    period = period_of(kind, zone, instant)
    assert period.start <= instant < period.end
    assert period_of(kind, zone, period.start) == period == period_of(kind, zone, period.end - 1)
    after = period_of(kind, zone, period.end)
    assert after.start == period.end
    assert after.period_id != period.period_id


@pytest.mark.parametrize(("date", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25)])
def test_days_follow_the_clock_change(date: tuple[int, int, int], hours: int) -> None:
    """A day in Berlin has 23 or 25 hours where clocks change."""
    noon = int(datetime(*date, 12, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()) * 1_000_000
    period = period_of("day", "Europe/Berlin", noon)
    assert (period.end - period.start) // HOUR_US == hours


def test_names_are_what_people_call_them() -> None:
    """Ids of all kinds at one instant."""
    instant = int(datetime(2026, 11, 24, 23, 30, tzinfo=ZoneInfo("UTC")).timestamp()) * 1_000_000
    names = {kind: period_of(kind, "Europe/Berlin", instant).period_id for kind in PERIOD_KINDS}
    assert names == {
        "minute": "2026-11-25T00:30+01:00",
        "hour": "2026-11-25T00:00+01:00",
        "day": "2026-11-25",
        "week": "2026-W48",
        "month": "2026-11",
    }
