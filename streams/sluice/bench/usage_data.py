"""Generated usage in the warehouse: events and every row that follows from them.

The engine makes the rows itself (`sql/bench/*.sql`), from a seed and the number of each event. The
laws of the meter hold: bands and classes add up to the cost, and window, task, source and budget
rows are what the events say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from sluice.errors import ConfigError
from sluice.resources import resource_dir
from sluice.settings import Settings
from sluice.warehouse.client import connect, translated
from sluice.warehouse.migrations import filled
from sluice.warehouse.statement import split

_BATCH = 250_000
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
# Of 16 events: in the last version of a window row, and in the earlier one of a row still open.
_ALL, _SOME = 16, 8


class Scale(NamedTuple):
    """How much usage, and when: `days` (at least 1) that end at `until`, a full hour in UTC."""

    events: int
    days: int
    until: datetime
    seed: int = 1

    @property
    def since(self) -> datetime:
        """The instant before which nothing happened."""
        return self.until - self.days * _DAY

    def parameters(self) -> dict[str, int]:
        """The scale as the statements take it; times are µs UTC."""
        return {"seed": self.seed, "events": self.events,
                "start_us": _micros(self.since), "until_us": _micros(self.until)}  # fmt: skip


def until_now() -> datetime:
    """The last full hour."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def fill(settings: Settings, scale: Scale, tell: Callable[[str], None] = lambda _: None) -> None:
    """Store the usage of `scale` in migrated, empty tables.

    Rows of the last day come hour by hour and in two versions, as from a meter that publishes
    windows while they are open. Raises ConfigError for a scale without events or days.
    """
    if scale.events < 1 or scale.days < 1:
        raise ConfigError("generated usage needs at least one event and one day")
    client = connect(settings)
    try:
        with translated(settings):
            _fill(client, settings, scale, tell)
    finally:
        client.close()


def _fill(client: Client, settings: Settings, scale: Scale, tell: Callable[[str], None]) -> None:
    given = scale.parameters()

    def run(name: str, parameters: Mapping[str, Any]) -> None:
        _run(client, settings, name, {**given, **parameters})

    for first in range(0, scale.events, _BATCH):
        run("events", {"first": first, "count": min(_BATCH, scale.events - first)})
        tell(f"{min(first + _BATCH, scale.events):,} of {scale.events:,} events")
    for day in _days(scale):
        run("corrections", {"day": day.date()})
        run("admissions", {"day": day.date()})
        for since, before, keep in _window_batches(day, scale):
            run("windows", {"since": since, "before": before, "keep": keep})
        run("tasks", {"day": day.date()})
    run("totals", {})
    tell("windows, tasks, sources, budgets and decisions")


def _run(client: Client, settings: Settings, name: str, parameters: dict[str, Any]) -> None:
    path = resource_dir("sql") / "bench" / f"{name}.sql"
    for statement in split(path.read_bytes()):
        client.command(filled(statement.decode(), settings), parameters=parameters)


def _days(scale: Scale) -> list[datetime]:
    """Midnights (UTC) of the days that have events."""
    first = scale.since.replace(hour=0)
    count = (scale.until - first) // _DAY + 1
    return [first + n * _DAY for n in range(count)]


def _window_batches(day: datetime, scale: Scale) -> list[tuple[datetime, datetime, int]]:
    """Since, before, and how many of 16 events are counted, for each insert of window rows."""
    if day + _DAY < scale.until - _DAY:
        return [(day, day + _DAY, _ALL)]
    hours = [day + n * _HOUR for n in range(24)]
    return [(hour, hour + _HOUR, keep) for keep in (_SOME, _ALL) for hour in hours]


def _micros(instant: datetime) -> int:
    return int(instant.timestamp()) * 1_000_000
