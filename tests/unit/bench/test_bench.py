"""Figures, and the scale of generated usage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sluice.bench.figures import Figure, Report, machine
from sluice.bench.usage_data import Scale, _days, _window_batches, fill, until_now
from sluice.errors import ConfigError
from sluice.settings import Settings

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "reach", "met"), [(300, 300, True), (301, 300, False), (1e9, None, None)]
)
def test_a_figure_knows_its_reach(value: float, reach: float | None, met: bool | None) -> None:
    """A value at its reach is met, one above it is not, one without a reach is neither."""
    figure = Figure("median", value, "ms", reach)
    assert figure.met is met
    assert figure.as_dict() == {
        "name": "median", "value": value, "unit": "ms", "reach": reach, "at_least": False,
        "met": met,
    }  # fmt: skip
    assert Report("b", {}, {}, [figure]).met is (met is not False)


def test_the_machine_is_named() -> None:
    """A report says on what it was measured."""
    named = machine()
    assert named["cores"] >= 1
    assert named["memory_bytes"] > 2**20
    assert all(named[key] for key in ("cpu", "system", "python"))


def test_days_cover_the_time() -> None:
    """Every day between begin and end is there, the partial ones too."""
    days = _days(Scale(1, 3, NOON))
    assert days[0] == datetime(2027, 1, 12, tzinfo=UTC)
    assert days[-1] == datetime(2027, 1, 15, tzinfo=UTC)
    assert len(days) == 4


def test_open_windows_come_in_versions() -> None:
    """Old days are stored once; of the last day each hour comes early and again in full."""
    scale = Scale(1, 5, NOON)
    old, last = _days(scale)[0], _days(scale)[-1]
    assert _window_batches(old, scale) == [(old, old + timedelta(days=1), 16)]
    batches = _window_batches(last, scale)
    assert [keep for _, _, keep in batches] == [8] * 24 + [16] * 24
    assert batches[0][:2] == (last, last + timedelta(hours=1))


def test_time_ends_with_a_full_hour() -> None:
    """Generated usage never lies in the future."""
    end = until_now()
    assert (end.minute, end.second, end.microsecond) == (0, 0, 0)
    assert end <= datetime.now(UTC)
    scale = Scale(10, 2, NOON)
    assert scale.parameters()["until_us"] - scale.parameters()["start_us"] == 2 * 86_400_000_000


@pytest.mark.parametrize(("events", "days"), [(0, 1), (1, 0)])
def test_nothing_cannot_be_generated(events: int, days: int) -> None:
    """A scale without events or days is refused before anything is stored."""
    with pytest.raises(ConfigError, match="at least one"):
        fill(Settings(clickhouse_url="http://127.0.0.1:1"), Scale(events, days, NOON))
