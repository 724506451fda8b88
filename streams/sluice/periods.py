"""Calendar periods of budgets, in any time zone.

Minutes and hours are whole ones of UTC time shifted by the zone's offset; days, weeks and months
begin at local midnight, so a day has 23 to 25 hours where clocks change.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo

PeriodKind = Literal["minute", "hour", "day", "week", "month"]
PERIOD_KINDS: tuple[str, ...] = get_args(PeriodKind)

_SECOND_US = 1_000_000
_FIXED_US = {"minute": 60 * _SECOND_US, "hour": 3600 * _SECOND_US}


class Period(NamedTuple):
    """One calendar period: `start` (inclusive) and `end` (exclusive) in µs UTC."""

    kind: str
    period_id: str
    start: int
    end: int


def period_of(kind: PeriodKind, time_zone: str, instant: int) -> Period:
    """The period of `kind` in an IANA time zone that holds `instant` (µs UTC).

    A pure function: what is remembered between calls only saves time.
    """
    key = (kind, time_zone)
    last = _latest.get(key)
    if last is None or not last.start <= instant < last.end:
        last = _latest[key] = _find(kind, time_zone, instant)
    return last


_latest: dict[tuple[str, str], Period] = {}


def _find(kind: PeriodKind, time_zone: str, instant: int) -> Period:
    zone = _zone(time_zone)
    if kind in _FIXED_US:
        return _fixed(kind, zone, instant)
    local = _local(instant, zone)
    first = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if kind == "week":
        first -= timedelta(days=first.weekday())
    elif kind == "month":
        first = first.replace(day=1)
    return Period(kind, _name(kind, first), _instant(first), _instant(_next(kind, first)))


def _next(kind: str, first: datetime) -> datetime:
    if kind == "day":
        return first + timedelta(days=1)
    if kind == "week":
        return first + timedelta(days=7)
    return (first + timedelta(days=32)).replace(day=1)


def _name(kind: str, first: datetime) -> str:
    if kind == "day":
        return first.strftime("%Y-%m-%d")
    if kind == "week":
        year, week, _ = first.isocalendar()
        return f"{year}-W{week:02d}"
    return first.strftime("%Y-%m")


def _fixed(kind: str, zone: ZoneInfo, instant: int) -> Period:
    offset = _local(instant, zone).utcoffset() or timedelta(0)
    shift, length = int(offset.total_seconds()) * _SECOND_US, _FIXED_US[kind]
    start = (instant + shift) // length * length - shift
    name = _local(start, zone).isoformat(timespec="minutes")
    return Period(kind, name, start, start + length)


def _local(instant: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(instant // _SECOND_US, UTC).astimezone(zone)


def _instant(local: datetime) -> int:
    return int(local.timestamp()) * _SECOND_US


@lru_cache
def _zone(time_zone: str) -> ZoneInfo:
    return ZoneInfo(time_zone)
