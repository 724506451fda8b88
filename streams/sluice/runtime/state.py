"""The meter's state of one partition and how it is stored, row by row, in the changelog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.metering.cohorts import Cohort, CohortHour, Cohorts, CohortSums
from sluice.metering.row_sums import WindowSums
from sluice.metering.sources import SourceKey, Sources, SourceSums
from sluice.metering.tasks import TaskKey, Tasks, TaskSums
from sluice.metering.windows import WindowKey, Windows

HEADER, SOURCE, UNNUMBERED, WINDOW, LEDGER, TASK, COHORT = b"h", b"s", b"u", b"w", b"l", b"t", b"c"
_LEDGER_KEEP_US = 36 * 86_400_000_000  # usage is accepted for 35 days after it occurred

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
_cohort_key = msgspec.msgpack.Decoder(tuple[tuple[str, str, str, str, str], int]).decode
# kind -> identity from bytes, row from bytes
_DECODERS: dict[bytes, tuple[Callable[[bytes], Any], Callable[[bytes], Any]]] = {
    SOURCE: (lambda b: SourceKey(*_any(b)), msgspec.msgpack.Decoder(SourceSums).decode),
    UNNUMBERED: (lambda b: tuple(_any(b)), _any),
    WINDOW: (lambda b: WindowKey(*_any(b)), msgspec.msgpack.Decoder(WindowSums).decode),
    LEDGER: (lambda b: LedgerKey(*_any(b)), msgspec.msgpack.Decoder(Ledger).decode),
    TASK: (lambda b: TaskKey(*_any(b)), msgspec.msgpack.Decoder(TaskSums).decode),
    COHORT: (lambda b: _cohort_hour(*_cohort_key(b)), msgspec.msgpack.Decoder(CohortSums).decode),
}


class State:
    """Everything one partition remembers; remembers also what changed since the last snapshot."""

    def __init__(self, lateness_us: int, dedupe_window_us: int) -> None:
        self.header = Header()
        self.sources = Sources(dedupe_window_us)
        self.windows = Windows(lateness_us)
        self.ledgers: dict[LedgerKey, Ledger] = {}
        self.tasks = Tasks()
        self.cohorts = Cohorts(lateness_us)
        self._changed: dict[tuple[bytes, Any], None] = {}

    def load(self, key: bytes, value: bytes) -> None:
        """Take one row of the changelog; an empty value removes it."""
        kind, identity = key[:1], key[1:]
        if kind == HEADER:
            self.header = _header(value)
            return
        decode_key, decode_row = _DECODERS[kind]
        found, row = decode_key(identity), decode_row(value) if value else None
        if kind == WINDOW:
            self.windows.put(found, row) if row else self.windows.drop(found)
        elif kind == TASK:
            self.tasks.put(found, row) if row else self.tasks.drop(found)
        elif row is None:
            self._table(kind).pop(found, None)
        else:
            self._table(kind)[found] = row

    def changed(self) -> bool:
        """Whether a snapshot would write anything."""
        return bool(self._changed)

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Rows that changed since the last call, encoded; None removes a row."""
        changed, self._changed = self._changed, {}
        for kind, identity in changed:
            if kind == HEADER:
                yield kind, _encode(self.header)
                continue
            row = self._table(kind).get(identity)
            yield kind + _encode(identity), None if row is None else _encode(row)

    def _table(self, kind: bytes) -> dict[Any, Any]:
        tables: dict[bytes, dict[Any, Any]] = {
            SOURCE: self.sources.rows, UNNUMBERED: self.sources.unnumbered,
            WINDOW: self.windows.rows, LEDGER: self.ledgers,
            TASK: self.tasks.rows, COHORT: self.cohorts.rows,
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
        self.touch_all(WINDOW, self.windows.evict(time))
        self.touch_all(COHORT, self.cohorts.evict(time))
        for key in [k for k, l in self.ledgers.items() if l.period_end < time - _LEDGER_KEEP_US]:
            del self.ledgers[key]
            self.touch_ledger(key)


def _cohort_hour(cohort: tuple[str, str, str, str, str], hour_start: int) -> CohortHour:
    return CohortHour(Cohort(*cohort), hour_start)
