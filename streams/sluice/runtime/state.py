"""The meter's state of one partition and how it is stored, row by row, in the changelog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.enforcement.leases import Lease, LeaseKey
from sluice.enforcement.outcomes import Outcomes
from sluice.enforcement.shares import Share, ShareKey, Told
from sluice.enforcement.watch import Watchers
from sluice.metering.columnar.cohorts import CohortTable
from sluice.metering.columnar.tasks import TaskTable
from sluice.metering.columnar.windows import WindowTable
from sluice.metering.sources import SourceKey, Sources, SourceSums
from sluice.runtime.state_rows import (
    changed_cohorts,
    changed_tasks,
    changed_windows,
    load_cohorts,
    load_tasks,
    load_windows,
)

HEADER, SOURCE, UNNUMBERED, WINDOW, LEDGER, TASK, COHORT = b"h", b"s", b"u", b"w", b"l", b"t", b"c"
WATCHER, OUTCOME = b"x", b"o"
LEASE, SHARE, TOLD = b"g", b"p", b"q"
_LEDGER_KEEP_US = 36 * 86_400_000_000  # usage is accepted for 35 days after it occurred
# Longer than partitions tell of a share, so that none is charged twice.
_TOLD_KEEP_US = 38 * 86_400_000_000

_encode = msgspec.msgpack.Encoder().encode
_any = msgspec.msgpack.Decoder().decode


class Header(msgspec.Struct, array_like=True):
    """What a partition knows as a whole: its time, the versions in force, its counters.

    `announced` is the time (µs) at which all versions in force were last named in its input.
    """

    time: int = 0
    slot: int = -1
    policies: dict[str, str] = msgspec.field(default_factory=dict)
    price_book: tuple[str, str] | None = None
    baseline: tuple[str, str] | None = None
    announced: int = 0
    counters: dict[str, int] = msgspec.field(default_factory=dict)


_header = msgspec.msgpack.Decoder(Header).decode
# kind -> identity from bytes, row from bytes
_DECODERS: dict[bytes, tuple[Callable[[bytes], Any], Callable[[bytes], Any]]] = {
    SOURCE: (lambda b: SourceKey(*_any(b)), msgspec.msgpack.Decoder(SourceSums).decode),
    UNNUMBERED: (lambda b: tuple(_any(b)), _any),
    LEDGER: (lambda b: LedgerKey(*_any(b)), msgspec.msgpack.Decoder(Ledger).decode),
    LEASE: (lambda b: LeaseKey(*_any(b)), msgspec.msgpack.Decoder(Lease).decode),
    SHARE: (lambda b: ShareKey(*_any(b)), msgspec.msgpack.Decoder(Share).decode),
    TOLD: (lambda b: ShareKey(*_any(b)), msgspec.msgpack.Decoder(Told).decode),
}


class State:
    """Everything one partition remembers; remembers also what changed since the last snapshot."""

    def __init__(self, lateness_us: int, dedupe_window_us: int) -> None:
        self.header = Header()
        self.sources = Sources(dedupe_window_us)
        self.windows = WindowTable(lateness_us)
        self.ledgers: dict[LedgerKey, Ledger] = {}
        self.leases: dict[LeaseKey, Lease] = {}
        self.shares: dict[ShareKey, Share] = {}
        self.told: dict[ShareKey, Told] = {}
        self.tasks = TaskTable()
        self.cohorts = CohortTable(lateness_us)
        self.watchers = Watchers()
        self.outcomes = Outcomes()
        self._changed: dict[tuple[bytes, Any], None] = {}

    def load(self, rows: Mapping[bytes, bytes]) -> None:
        """Take rows of the changelog, one for each key; an empty value removes a row."""
        columnar: dict[bytes, dict[bytes, bytes]] = {WINDOW: {}, TASK: {}, COHORT: {}}
        for key, value in rows.items():
            kind, identity = key[:1], key[1:]
            if kind in columnar:
                columnar[kind][identity] = value
            elif kind == WATCHER:
                self.watchers.load(identity, value)
            elif kind == OUTCOME:
                self.outcomes.load(identity, value)
            elif kind == HEADER:
                self.header = _header(value)
            else:
                decode_key, decode_row = _DECODERS[kind]
                _put(self._table(kind), decode_key(identity), decode_row(value) if value else None)
        load_windows(self.windows, columnar[WINDOW])
        load_tasks(self.tasks, columnar[TASK])
        load_cohorts(self.cohorts, columnar[COHORT])

    def changed(self) -> bool:
        """Whether a snapshot would write anything."""
        tables = (self.windows, self.tasks, self.cohorts)
        return bool(self._changed) or any(table.is_changed() for table in tables)

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Rows that changed since the last call, encoded; None removes a row."""
        changed, self._changed = self._changed, {}
        for kind, identity in changed:
            if kind == HEADER:
                yield kind, _encode(self.header)
                continue
            row = self._table(kind).get(identity)
            yield kind + _encode(identity), None if row is None else _encode(row)
        yield from ((WINDOW + key, row) for key, row in changed_windows(self.windows))
        yield from ((TASK + key, row) for key, row in changed_tasks(self.tasks))
        yield from ((COHORT + key, row) for key, row in changed_cohorts(self.cohorts))
        yield from ((WATCHER + key, row) for key, row in self.watchers.take_changes())
        yield from ((OUTCOME + key, row) for key, row in self.outcomes.take_changes())

    def _table(self, kind: bytes) -> dict[Any, Any]:
        tables: dict[bytes, dict[Any, Any]] = {
            SOURCE: self.sources.rows, UNNUMBERED: self.sources.unnumbered,
            LEDGER: self.ledgers, LEASE: self.leases, SHARE: self.shares,
            TOLD: self.told,
        }  # fmt: skip
        return tables[kind]

    def touch(self, kind: bytes, identity: Any = None) -> None:
        """A row changed or is gone; the header needs no identity."""
        self._changed[kind, identity] = None

    def touch_all(self, kind: bytes, identities: Iterable[Any]) -> None:
        """Several rows of one kind changed or are gone."""
        for identity in identities:
            self._changed[kind, identity] = None

    def touch_ledger(self, key: LedgerKey) -> None:
        """A ledger changed or is gone."""
        self.touch(LEDGER, key)

    def count(self, counter: str, by: int = 1) -> None:
        """Add to a counter of the header."""
        if by:
            self.header.counters[counter] = self.header.counters.get(counter, 0) + by

    def forget_old(self, time: int) -> None:
        """Drop what no accepted record can refer to any more; numbers still missing are lost."""
        self.touch_all(UNNUMBERED, self.sources.forget_unnumbered(time))
        lost_before = sum(sums.lost for sums in self.sources.rows.values())
        self.touch_all(SOURCE, self.sources.give_up(time))
        self.count("lost", sum(s.lost for s in self.sources.rows.values()) - lost_before)
        self.touch_all(SOURCE, self.sources.evict(time))
        self.windows.evict(time)
        self.cohorts.evict(time)
        self.outcomes.evict(time)
        over, told_over = time - _LEDGER_KEEP_US, time - _TOLD_KEEP_US
        self._forget(LEDGER, [k for k, l in self.ledgers.items() if l.period_end < over])
        self._forget(SHARE, [k for k, s in self.shares.items() if s.period_end < over])
        self._forget(TOLD, [k for k, t in self.told.items() if t.share.period_end < told_over])

    def _forget(self, kind: bytes, identities: list[Any]) -> None:
        table = self._table(kind)
        for identity in identities:
            del table[identity]
        self.touch_all(kind, identities)


def _put(table: dict[Any, Any], identity: Any, row: Any) -> None:
    if row is None:
        table.pop(identity, None)
    else:
        table[identity] = row
