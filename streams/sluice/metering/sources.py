"""Producers of one partition: which of their events were seen, and how complete they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from sluice.metering.dedupe import Mark, Seen, missing_count, observe
from sluice.metering.validate import MAX_AHEAD_US

_DAY_US = 86_400_000_000
_GIVE_UP_US = 7 * _DAY_US  # usage.v1 keeps no record longer that could still arrive
# A producer may be silent for one tenant for weeks; forgotten, its next number would look lost.
_KEEP_US = 36 * _DAY_US


class SourceKey(NamedTuple):
    """A run of one producer for one message key; `source_epoch` is '' for unnumbered events."""

    source: str
    source_epoch: str
    tenant_id: str


class SourceSums(msgspec.Struct, array_like=True):
    """The mark of a run and what became of its events; `time` is that of the newest record (µs)."""

    time: int
    highest: int = 0
    missing: tuple[tuple[int, int], ...] = ()
    lost: int = 0
    events: int = 0
    recovered: int = 0
    duplicates: int = 0
    unprotected: int = 0
    dirty: bool = False


EventKey = tuple[str, str]  # source, event_id


class Sources:
    """Sequence marks, remembered unnumbered events, and which rows are to be published."""

    def __init__(self, dedupe_window_us: int) -> None:
        self.dedupe_window_us = dedupe_window_us
        self.rows: dict[SourceKey, SourceSums] = {}
        self.unnumbered: dict[EventKey, int] = {}

    def observe(self, event: Mapping[str, Any], key: bytes | None, time: int) -> Seen:
        """Whether an event that arrived under `key` at broker time `time` is to be applied."""
        sums = self._row(event, key, time)
        number = event["source_seq"]
        if number is None or number < 1:
            seen = self._unnumbered(event, time)
        else:
            mark, seen = observe(_mark(sums), number)
            sums.highest, sums.missing, sums.lost = mark
        sums.time, sums.dirty = time, True
        sums.events += seen is not Seen.DUPLICATE
        sums.duplicates += seen is Seen.DUPLICATE
        sums.recovered += seen is Seen.RECOVERED
        return seen

    def advance(self, key: SourceKey, events: int, time: int) -> None:
        """Apply the next `events` numbers of a run; the last one arrived at broker time `time`."""
        sums = self.rows.setdefault(key, SourceSums(time))
        sums.highest += events
        sums.events += events
        sums.time, sums.dirty = time, True

    def count_unprotected(self, event: Mapping[str, Any], key: bytes | None, time: int) -> None:
        """Count an applied event whose duplicates cannot be told."""
        self._row(event, key, time).unprotected += 1

    def missing(self) -> int:
        """Numbers of all producers that may still come."""
        return sum(missing_count(_mark(sums)) for sums in self.rows.values() if sums.missing)

    def incomplete(self) -> dict[str, tuple[int, int, int, int]]:
        """Missing, lost, recovered and unprotected events per producer that has any of them."""
        found: dict[str, tuple[int, int, int, int]] = {}
        for key, sums in self.rows.items():
            counts = (missing_count(_mark(sums)), sums.lost, sums.recovered, sums.unprotected)
            if any(counts):
                before = found.get(key.source, (0, 0, 0, 0))
                a, b, c, d = (x + y for x, y in zip(before, counts, strict=True))
                found[key.source] = (a, b, c, d)
        return found

    def take_dirty(self) -> Iterator[tuple[SourceKey, SourceSums]]:
        """Rows to publish now, in key order; they count as published afterwards."""
        for key in sorted(key for key, sums in self.rows.items() if sums.dirty):
            self.rows[key].dirty = False
            yield key, self.rows[key]

    def give_up(self, time: int) -> list[SourceKey]:
        """Count what has been missing for a week as lost; the rows are to be published again."""
        due = [k for k, s in self.rows.items() if s.missing and s.time < time - _GIVE_UP_US]
        for key in due:
            sums = self.rows[key]
            sums.lost += missing_count(_mark(sums))
            sums.missing, sums.dirty = (), True
        return due

    def evict(self, time: int) -> list[SourceKey]:
        """Remove published rows that no record can refer to any more and return their keys."""
        done = [
            key
            for key, sums in self.rows.items()
            if not sums.dirty and not sums.missing and sums.time < time - _KEEP_US
        ]
        for key in done:
            del self.rows[key]
        return done

    def forget_unnumbered(self, time: int) -> list[EventKey]:
        """Forget events too old for their duplicates to be looked for; return their keys."""
        done = [key for key, at in self.unnumbered.items() if at < time - self.dedupe_window_us]
        for key in done:
            del self.unnumbered[key]
        return done

    def _row(self, event: Mapping[str, Any], key: bytes | None, time: int) -> SourceSums:
        return self.rows.setdefault(source_key(event, key), SourceSums(time))

    def _unnumbered(self, event: Mapping[str, Any], time: int) -> Seen:
        identity = event["source"], event["event_id"]
        if identity in self.unnumbered:
            return Seen.DUPLICATE
        # Of an event from the future a duplicate can come until that time and the window are over.
        ahead = min(event["occurred_at"], time + MAX_AHEAD_US)
        self.unnumbered[identity] = max(time, ahead)
        return Seen.NEW


def _mark(sums: SourceSums) -> Mark:
    return Mark(sums.highest, sums.missing, sums.lost)


def source_key(event: Mapping[str, Any], key: bytes | None) -> SourceKey:
    """The run that an event belongs to."""
    number = event["source_seq"]
    epoch = "" if number is None or number < 1 else event["source_epoch"]
    return SourceKey(event["source"], epoch, (key or b"").decode(errors="replace"))


def row_record(key: SourceKey, sums: SourceSums, version: int) -> dict[str, Any]:
    """A SourceRow as it goes on the wire."""
    return {
        **key._asdict(),
        "events": sums.events,
        "highest": sums.highest,
        "missing": missing_count(_mark(sums)),
        "lost": sums.lost,
        "recovered": sums.recovered,
        "duplicates": sums.duplicates,
        "unprotected": sums.unprotected,
        "last_seen_at": sums.time,
        "version": version,
    }
