"""Sums over look-back windows of many scopes: twelve buckets a window, whole numbers only.

A window covers the bucket of the present and the eleven before it, so between 11/12 and all of its
length. Memory per scope is bounded and does not depend on how much happens; a scope that was silent
for longer than the longest window weighs nothing and can go.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from sluice.compiled import compiled
from sluice.enforcement.signals.burn import Span
from sluice.wire.column_types import Ints

BUCKETS = 12
# Twelve buckets stay within 64 bits; a larger one stands still: it is a signal, no bill.
MOST = 2**59
_GROWTH = 1024


Scope = tuple[str, ...]


class StoredRow(msgspec.Struct, array_like=True):
    """Sums of one scope as they are stored; buckets that are 0 are left out."""

    first_at: int
    seen_at: int
    slots: list[int]
    sums: dict[int, int]


class Rings:
    """Sums of `measures` over `windows` for every scope that was active lately.

    `first_at` and `seen_at` (µs) are the times of a scope's first and latest amount, by row;
    `scopes` has the scope of each row, () where there is none.
    """

    def __init__(self, windows: Sequence[Span], measures: Sequence[str]) -> None:
        self.windows = {span.name: index for index, span in enumerate(windows)}
        self.measures = {name: index for index, name in enumerate(measures)}
        self.rows: dict[Scope, int] = {}
        self.scopes: list[Scope] = []
        self._widths = np.array([span.width_us // BUCKETS for span in windows], dtype=np.int64)
        self._keep_us = max(span.width_us for span in windows)
        self._free: list[int] = []
        self._dropped: set[Scope] = set()
        shape = (0, len(windows), len(measures), BUCKETS)
        self._slots, self._sums = _nothing(shape)
        self.first_at, self.seen_at = _times(0), _times(0)
        self._changed = np.zeros(0, dtype=np.bool_)

    def row(self, scope: Scope, time: int) -> int:
        """The row of a scope, a new one where there is none."""
        found = self.rows.get(scope)
        if found is None:
            if not self._free:
                self._grow()
            found = self.rows[scope] = self._free.pop()
            self.scopes[found] = scope
            self.first_at[found] = self.seen_at[found] = time
        return found

    def add(self, rows: Ints, times: Ints, amounts: Ints) -> None:
        """Add amounts [event, measure] to the scopes of `rows` at `times` (µs)."""
        self._changed[rows] = True
        _add(self._slots, self._sums, self._widths, self.seen_at, rows, times, amounts)

    def totals(self, rows: Ints, time: int) -> Ints:
        """Sums at `time` as [row, window, measure], of each window; a row of -1 has none."""
        return _totals(self._slots, self._sums, self._widths, rows, time)

    def active(self, since: int) -> Ints:
        """Rows of the scopes that had an amount at `since` or later, in ascending order."""
        used = np.fromiter(self.rows.values(), dtype=np.int64, count=len(self.rows))
        return np.sort(used[self.seen_at[used] >= since])

    def idle(self, time: int) -> list[Scope]:
        """Scopes whose sums are all 0 at `time`, in order."""
        return sorted(s for s, row in self.rows.items() if self.seen_at[row] + self._keep_us < time)

    def drop(self, scope: Scope) -> None:
        """Forget a scope, which counts as a change."""
        if scope in self.rows:
            self.forget(scope)
            self._dropped.add(scope)

    def forget(self, scope: Scope) -> None:
        """Forget a scope that is stored no more."""
        row = self.rows.pop(scope, None)
        if row is not None:
            self._free.append(row)
            self._slots[row], self._sums[row] = -1, 0
            self.scopes[row], self._changed[row] = (), False

    def take_changed(self) -> list[Scope]:
        """Scopes that changed or were dropped since the last call, in order."""
        changed = {self.scopes[row] for row in np.flatnonzero(self._changed).tolist()}
        found, self._dropped = changed | self._dropped, set()
        self._changed[:] = False
        return sorted(found)

    def stored(self, scope: Scope) -> StoredRow:
        """A scope's sums as they are stored."""
        row = self.rows[scope]
        flat = self._sums[row].ravel()
        used = np.flatnonzero(flat)
        sums = dict(zip(used.tolist(), flat[used].tolist(), strict=True))
        slots = self._slots[row].tolist()
        return StoredRow(int(self.first_at[row]), int(self.seen_at[row]), slots, sums)

    def put(self, scope: Scope, stored: StoredRow) -> None:
        """Take a scope's sums as they were stored."""
        self.forget(scope)
        row = self.row(scope, stored.first_at)
        self.seen_at[row] = stored.seen_at
        self._slots[row] = stored.slots
        self._sums[row].ravel()[list(stored.sums)] = list(stored.sums.values())

    def _grow(self) -> None:
        before = len(self.seen_at)
        slots, sums = _nothing((_GROWTH, *self._sums.shape[1:]))
        self._slots, self._sums = (
            np.concatenate([self._slots, slots]),
            np.concatenate([self._sums, sums]),
        )
        self.first_at = np.concatenate([self.first_at, _times(_GROWTH)])
        self.seen_at = np.concatenate([self.seen_at, _times(_GROWTH)])
        self._changed = np.concatenate([self._changed, np.zeros(_GROWTH, dtype=np.bool_)])
        self.scopes += [()] * _GROWTH
        self._free += range(before + _GROWTH - 1, before - 1, -1)


def _times(rows: int) -> Ints:
    return np.zeros(rows, dtype=np.int64)


def _nothing(shape: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Slots and sums of scopes without any."""
    return np.full(shape[:2], -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)


@compiled
def _add(
    slots: Ints, sums: Ints, widths: Ints, seen_at: Ints, rows: Ints, times: Ints, amounts: Ints
) -> None:
    for i in range(len(rows)):
        row = rows[i]
        seen_at[row] = max(seen_at[row], times[i])
        for w in range(len(widths)):
            slot, last = times[i] // widths[w], slots[row, w]
            if slot > last:
                for passed in range(max(last + 1, slot - BUCKETS + 1), slot + 1):
                    sums[row, w, :, passed % BUCKETS] = 0
                slots[row, w] = slot
            elif slot <= last - BUCKETS:
                continue
            for m in range(amounts.shape[1]):
                # Bounded first, so that the sum cannot leave 64 bits before it is bounded.
                amount = min(max(amounts[i, m], -MOST), MOST)
                total = sums[row, w, m, slot % BUCKETS] + amount
                sums[row, w, m, slot % BUCKETS] = min(max(total, -MOST), MOST)


@compiled
def _totals(slots: Ints, sums: Ints, widths: Ints, rows: Ints, time: int) -> Ints:
    found = np.zeros((len(rows), len(widths), sums.shape[2]), dtype=np.int64)
    for i in range(len(rows)):
        row = rows[i]
        if row < 0:
            continue
        for w in range(len(widths)):
            now, last = time // widths[w], slots[row, w]
            if last < 0:
                continue
            for slot in range(max(now, last) - BUCKETS + 1, min(now, last) + 1):
                for m in range(sums.shape[2]):
                    found[i, w, m] += sums[row, w, m, slot % BUCKETS]
    return found
