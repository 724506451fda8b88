"""Sums per tenant, project, model, tool and minute of event time, as absolute rows.

Time is the partition's highest broker timestamp. A window closes `DELAY_US` after its end and goes
on taking late usage, each time as a new revision, for `lateness_us`; usage that is later still gets
a row in the lane of its arrival date. Rows leave memory only when nothing can change them any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sluice.metering import row_sums
from sluice.metering.cohorts import model_of
from sluice.metering.labels import Label
from sluice.metering.row_sums import WindowSums
from sluice.money import checked_sum

WINDOW_US = 60_000_000
DELAY_US = 30_000_000
FUTURE_US = 5_000_000
_DAY_US = 86_400_000_000


class WindowKey(NamedTuple):
    """Identity of a row; `lane` is '' or the arrival date (YYYY-MM-DD) of late usage."""

    tenant_id: str
    project_id: str
    model: str
    tool: str
    window_start: int
    lane: str


class Windows:
    """All rows of one partition that can still change, and which of them are to be published."""

    def __init__(self, lateness_us: int) -> None:
        self._lateness_us = lateness_us
        self.rows: dict[WindowKey, WindowSums] = {}
        self.dirty: set[WindowKey] = set()
        self._by_start: dict[int, set[WindowKey]] = {}

    def put(self, key: WindowKey, sums: WindowSums) -> None:
        """Take a row as it was stored."""
        self.rows[key] = sums
        (self.dirty.add if sums.dirty else self.dirty.discard)(key)
        self._by_start.setdefault(key.window_start, set()).add(key)

    def drop(self, key: WindowKey) -> None:
        """Forget a row."""
        self.dirty.discard(key)
        if self.rows.pop(key, None) is not None:
            self._by_start[key.window_start].discard(key)

    def key_of(
        self, event: Mapping[str, Any], time: int, *, unprotected: bool = False
    ) -> WindowKey:
        """The row that `event` belongs to when it arrives at broker time `time` (µs).

        `unprotected` usage, whose duplicates cannot be told any more, always goes to a lane.
        """
        occurred = min(event["occurred_at"], time + FUTURE_US)
        start = occurred - occurred % WINDOW_US
        late = unprotected or time > start + WINDOW_US + DELAY_US + self._lateness_us
        model = model_of(event)
        lane = _date(time) if late else ""
        return WindowKey(
            event["tenant_id"], event["project_id"], model, event["tool_name"] or "", start, lane
        )

    def add(self, key: WindowKey, event: Mapping[str, Any], label: Label | None, time: int) -> None:
        """Add one event at broker time `time`, one without a label as a report of refusals.

        OverflowError leaves the row as it was.
        """
        row = self.rows.get(key) or WindowSums()
        if label is None:
            row_sums.add_refusals(row, event)
        else:
            row_sums.add_usage(row, event, label, clamped=event["occurred_at"] > time + FUTURE_US)
        if key not in self.rows:
            self.put(key, row)
        if row.closed and not row.dirty:
            row.revision += 1
        self._mark_dirty(key, row)

    def check_task_tail(self, key: WindowKey, most: int) -> None:
        """Raise OverflowError where a row has no room for a task tail of at most `most`."""
        row = self.rows.get(key)
        if row is not None and row.task_tail_pusd is not None:
            checked_sum(abs(row.task_tail_pusd), most)

    def add_task_tail(self, key: WindowKey, task_tail_pusd: int | None) -> None:
        """Add to a row what its newest event adds to the tail of a task; None changes nothing."""
        if task_tail_pusd is not None:
            row = self.rows[key]
            row.task_tail_pusd = (row.task_tail_pusd or 0) + task_tail_pusd

    def _mark_dirty(self, key: WindowKey, row: WindowSums) -> None:
        row.dirty = True
        self.dirty.add(key)

    def close_due(self, time: int) -> list[WindowKey]:
        """Mark rows whose window closed by `time`, to be published once more; return their keys."""
        due = [
            key
            for start, keys in self._by_start.items()
            if start + WINDOW_US + DELAY_US <= time
            for key in keys
            if not self.rows[key].closed
        ]
        for key in due:
            self.rows[key].closed = True
            self._mark_dirty(key, self.rows[key])
        return due

    def take_dirty(self) -> Iterator[tuple[WindowKey, WindowSums]]:
        """Rows to publish now, in key order; they count as published afterwards."""
        for key in sorted(self.dirty):
            self.rows[key].dirty = False
            yield key, self.rows[key]
        self.dirty.clear()

    def evict(self, time: int) -> list[WindowKey]:
        """Remove published rows that nothing can change any more and return their keys."""
        done = [
            key
            for start, keys in self._by_start.items()
            if start + WINDOW_US + DELAY_US + self._lateness_us < time
            for key in keys
            if key not in self.dirty and (not key.lane or key.lane < _date(time))
        ]
        for key in done:
            self.drop(key)
        for start in [s for s, keys in self._by_start.items() if not keys]:
            del self._by_start[start]
        return done

    def next_due(self) -> int | None:
        """Broker time at which a row has to be closed, or None where all are."""
        ends = [
            start + WINDOW_US + DELAY_US
            for start, keys in self._by_start.items()
            if any(not self.rows[key].closed for key in keys)
        ]
        return min(ends, default=None)


def watermark(time: int) -> int:
    """Event time up to which regular rows are complete at broker time `time`."""
    return time - DELAY_US


def row_record(key: WindowKey, row: WindowSums, time: int, version: int) -> dict[str, Any]:
    """A WindowRow as it goes on the wire."""
    return {
        **key._asdict(),
        **row_sums.fields_of(row),
        "shard": 0,
        "watermark": watermark(time),
        "version": version,
    }


def _date(time: int) -> str:
    return datetime.fromtimestamp(time // 1_000_000, UTC).date().isoformat()
