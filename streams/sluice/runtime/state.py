"""The meter's state of one partition and how it is stored, row by row, in the changelog."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.metering.dedupe import Mark
from sluice.metering.windows import WindowKey, Windows, WindowSums

_HEADER, _MARK, _UNNUMBERED, _WINDOW, _LEDGER = b"h", b"s", b"u", b"w", b"l"
_MARK_KEEP_US = 7 * 86_400_000_000  # as long as usage.v1 keeps records that could come again
_LEDGER_KEEP_US = 36 * 86_400_000_000  # usage is accepted for 35 days after it occurred

_encode = msgspec.msgpack.Encoder().encode
_any = msgspec.msgpack.Decoder().decode


class Header(msgspec.Struct, array_like=True):
    """What a partition knows as a whole: its time, the versions in force, its counters."""

    time: int = 0
    slot: int = -1
    policies: dict[str, str] = msgspec.field(default_factory=dict)
    price_book: tuple[str, str] | None = None
    counters: dict[str, int] = msgspec.field(default_factory=dict)


class MarkRow(msgspec.Struct, array_like=True):
    """Sequence mark of one (source, source_epoch, message key) and when it last moved."""

    highest: int
    missing: tuple[tuple[int, int], ...]
    lost: int
    time: int

    def mark(self) -> Mark:
        """The mark as deduplication takes it."""
        return Mark(self.highest, self.missing, self.lost)


MarkKey = tuple[str, str, str]
_header = msgspec.msgpack.Decoder(Header).decode
_mark = msgspec.msgpack.Decoder(MarkRow).decode
_sums = msgspec.msgpack.Decoder(WindowSums).decode
_ledger = msgspec.msgpack.Decoder(Ledger).decode


class State:
    """Everything one partition remembers; remembers also what changed since the last snapshot."""

    def __init__(self, lateness_us: int, dedupe_window_us: int) -> None:
        self.dedupe_window_us = dedupe_window_us
        self.header = Header()
        self.marks: dict[MarkKey, MarkRow] = {}
        self.unnumbered: dict[tuple[str, str], int] = {}
        self.windows = Windows(lateness_us)
        self.ledgers: dict[LedgerKey, Ledger] = {}
        self._changed: dict[tuple[bytes, Any], None] = {}

    def load(self, key: bytes, value: bytes) -> None:
        """Take one row of the changelog; an empty value removes it."""
        kind, identity = key[:1], key[1:]
        if kind == _HEADER:
            self.header = _header(value)
        elif kind == _MARK:
            _put(self.marks, tuple(_any(identity)), value and _mark(value))
        elif kind == _UNNUMBERED:
            _put(self.unnumbered, tuple(_any(identity)), value and _any(value))
        elif kind == _WINDOW:
            self._load_window(WindowKey(*_any(identity)), value)
        elif kind == _LEDGER:
            _put(self.ledgers, LedgerKey(*_any(identity)), value and _ledger(value))

    def _load_window(self, key: WindowKey, value: bytes) -> None:
        if value:
            self.windows.put(key, _sums(value))
        else:
            self.windows.drop(key)

    def changed(self) -> bool:
        """Whether a snapshot would write anything."""
        return bool(self._changed)

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Rows that changed since the last call, encoded; None removes a row."""
        changed, self._changed = self._changed, {}
        for kind, identity in changed:
            row = self._row(kind, identity)
            key = kind if kind == _HEADER else kind + _encode(identity)
            yield key, None if row is None else _encode(row)

    def _row(self, kind: bytes, identity: Any) -> Any:
        if kind == _HEADER:
            return self.header
        tables: dict[bytes, dict[Any, Any]] = {
            _MARK: self.marks, _UNNUMBERED: self.unnumbered,
            _WINDOW: self.windows.rows, _LEDGER: self.ledgers,
        }  # fmt: skip
        return tables[kind].get(identity)

    def touch_header(self) -> None:
        """The header changed."""
        self._changed[_HEADER, None] = None

    def touch_window(self, key: WindowKey) -> None:
        """A window row changed or is gone."""
        self._changed[_WINDOW, key] = None

    def touch_ledger(self, key: LedgerKey) -> None:
        """A ledger changed or is gone."""
        self._changed[_LEDGER, key] = None

    def set_mark(self, key: MarkKey, mark: Mark, time: int) -> None:
        """Store the mark of a numbered producer."""
        self.marks[key] = MarkRow(*mark, time)
        self._changed[_MARK, key] = None

    def remember(self, source: str, event_id: str, time: int) -> None:
        """Store an event of a producer without numbers."""
        self.unnumbered[source, event_id] = time
        self._changed[_UNNUMBERED, (source, event_id)] = None

    def count(self, counter: str, by: int = 1) -> None:
        """Add to a counter of the header."""
        if by:
            self.header.counters[counter] = self.header.counters.get(counter, 0) + by

    def forget_old(self, time: int) -> None:
        """Drop what no accepted record can refer to any more; numbers still missing are lost."""
        for key in [k for k, at in self.unnumbered.items() if at < time - self.dedupe_window_us]:
            del self.unnumbered[key]
            self._changed[_UNNUMBERED, key] = None
        for mark_key in [k for k, row in self.marks.items() if row.time < time - _MARK_KEEP_US]:
            row = self.marks.pop(mark_key)
            self.count("lost", sum(last - first + 1 for first, last in row.missing))
            self._changed[_MARK, mark_key] = None
        for key_ in [k for k, l in self.ledgers.items() if l.period_end < time - _LEDGER_KEEP_US]:
            del self.ledgers[key_]
            self.touch_ledger(key_)


def _put(table: dict[Any, Any], key: Any, row: Any) -> None:
    if row:
        table[key] = row
    else:
        table.pop(key, None)
