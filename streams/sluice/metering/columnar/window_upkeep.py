"""Where window rows are kept: room for them, how they are found, come, leave and are loaded."""

from __future__ import annotations

import numpy as np

from sluice.compiled import compiled, inlined
from sluice.metering.columnar import sparse
from sluice.metering.columnar.buckets import way_of
from sluice.metering.columnar.sparse import NOTHING, Entries, Links
from sluice.metering.columnar.window_layout import (
    BASELINE,
    BOOK,
    COMMON_SUMS,
    GONE_FROM_INDEX,
    LABEL_STEP,
    LIVE,
    RARE_SUMS,
    ROW_FREE,
    ROWS_LIVE,
    ROWS_USED,
    TOKENS_AT,
    WAYS,
    WIDTH,
    Keys,
    Listed,
    Rows,
    Stored,
)
from sluice.wire.column_types import Ints

_EMPTY, _GONE = -1, -2  # of `Rows.places`


def made(capacity: int) -> Rows:
    """Room for so many rows."""
    classes, labels = (np.full(capacity, NOTHING, dtype=np.int32) for _ in range(2))
    latency, cost = (np.full(WAYS * capacity, NOTHING, dtype=np.int32) for _ in range(2))
    return Rows(
        np.zeros((capacity, len(COMMON_SUMS)), dtype=np.int64),
        np.zeros((capacity, len(RARE_SUMS)), dtype=np.int64), np.zeros(capacity, dtype=np.int64),
        np.zeros((capacity, WIDTH), dtype=np.int32), np.zeros(capacity, dtype=np.uint8),
        classes, latency, cost, labels, _index(capacity),
        np.array([0, NOTHING, 0, 0], dtype=np.int64),
    )  # fmt: skip


def with_room(rows: Rows, more: int) -> Rows:
    """The same rows with room for `more` at least."""
    live, gone = int(rows.counts[ROWS_LIVE]), int(rows.counts[GONE_FROM_INDEX])
    held = len(rows.start)
    if live + more > held:
        rows = _wider(rows, max(live + more, held * 3 // 2))
    if 2 * (live + more + gone) > len(rows.places):
        _reindex(rows)
    return rows


def _wider(rows: Rows, capacity: int) -> Rows:
    held = len(rows.start)
    classes, labels = (sparse.grown(heads, capacity) for heads in (rows.classes, rows.labels))
    latency, cost = (sparse.grown(heads, WAYS * capacity) for heads in (rows.latency, rows.cost))
    classes[held:] = labels[held:] = latency[WAYS * held :] = cost[WAYS * held :] = NOTHING
    wider = Rows(
        sparse.grown(rows.sums, capacity), _grown_where_written(rows.rare, capacity),
        sparse.grown(rows.start, capacity),
        sparse.grown(rows.names, capacity), sparse.grown(rows.state, capacity),
        classes, latency, cost, labels, _index(capacity), rows.counts,
    )  # fmt: skip
    _reindex(wider)
    return wider


def _index(capacity: int) -> Links:
    """An index that half of its room is enough for."""
    return np.full(1 << (2 * capacity - 1).bit_length(), _EMPTY, dtype=np.int32)


def _grown_where_written(column: Ints, capacity: int) -> Ints:
    """A longer copy in which rows of zeros stay unwritten."""
    longer = np.zeros((capacity, *column.shape[1:]), dtype=column.dtype)
    written = np.flatnonzero(column.any(axis=1))
    longer[written] = column[written]
    return longer


@inlined
def _place(names: Ints, start: int, index: Links) -> int:
    """Where the search for a key begins."""
    mixed = np.uint64(start // 1_000_000)
    for number in names:
        mixed = (mixed ^ np.uint64(number)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.int64(mixed & np.uint64(len(index) - 1))  # type: ignore[return-value]


@compiled
def _reindex(rows: Rows) -> None:
    """Build the index anew, as is needed once rows have left."""
    rows.places[:] = _EMPTY
    rows.counts[GONE_FROM_INDEX] = 0
    for slot in range(rows.counts[ROWS_USED]):
        if rows.state[slot] & LIVE:
            at = _place(rows.names[slot, :5].astype(np.int64), rows.start[slot], rows.places)
            while rows.places[at] != _EMPTY:
                at = (at + 1) & (len(rows.places) - 1)
            rows.places[at] = slot


@inlined
def _at(rows: Rows, names: Ints, start: int) -> int:
    """The place of a key in the index, else the empty one where it would go."""
    at = _place(names, start, rows.places)
    while rows.places[at] != _EMPTY:
        if rows.places[at] != _GONE and _is(rows, rows.places[at], names, start):
            return at
        at = (at + 1) & (len(rows.places) - 1)
    return at


@inlined
def _is(rows: Rows, slot: int, names: Ints, start: int) -> bool:
    if rows.start[slot] != start:
        return False
    for column in range(len(names)):  # noqa: SIM110 (compiled)
        if rows.names[slot, column] != names[column]:
            return False
    return True


@compiled
def find(rows: Rows, keys: Keys, opening: bool) -> Ints:  # noqa: FBT001 (compiled)
    """Slots of keys, `opening` rows where there are none, else -1; there is room for them."""
    slots = np.empty(len(keys.start), dtype=np.int64)
    for n in range(len(slots)):
        names, start = keys.names[n], keys.start[n]
        at = _at(rows, names, start)
        slot = int(rows.places[at])
        if slot == _EMPTY and opening:
            slot = _opened(rows, names, start)
            rows.places[at] = slot
        slots[n] = slot
    return slots


@inlined
def _opened(rows: Rows, names: Ints, start: int) -> int:
    slot = int(rows.counts[ROW_FREE])
    if slot == NOTHING:
        slot = int(rows.counts[ROWS_USED])
        rows.counts[ROWS_USED] += 1
    else:
        rows.counts[ROW_FREE] = rows.start[slot]
    rows.counts[ROWS_LIVE] += 1
    rows.start[slot] = start
    rows.names[slot, :5] = names
    rows.names[slot, 5:] = NOTHING
    rows.state[slot] = LIVE
    rows.sums[slot, :] = 0
    for column in range(rows.rare.shape[1]):
        if rows.rare[slot, column]:
            rows.rare[slot, column] = 0
    return slot


@compiled
def leave(rows: Rows, entries: Entries, slots: Ints) -> None:
    """Give slots and their entries back."""
    for slot in slots:
        at = _at(rows, rows.names[slot, :5].astype(np.int64), rows.start[slot])
        rows.places[at] = _GONE
        rows.counts[GONE_FROM_INDEX] += 1
        _clear(rows, entries, slot)
        rows.state[slot] = 0
        rows.start[slot] = rows.counts[ROW_FREE]
        rows.counts[ROW_FREE] = slot
        rows.counts[ROWS_LIVE] -= 1


@inlined
def _clear(rows: Rows, entries: Entries, slot: int) -> None:
    """Give the entries of a row back."""
    sparse.free(rows.classes, slot, entries)
    sparse.free_ways(rows.latency, slot, entries, WAYS)
    sparse.free_ways(rows.cost, slot, entries, WAYS)
    sparse.free(rows.labels, slot, entries)


@compiled
def most(rows: Rows, slots: Ints) -> float:
    """The largest amount in any of these rows."""
    largest = 0.0
    for slot in slots:
        if slot >= 0:
            for column in range(TOKENS_AT, rows.sums.shape[1]):
                largest = max(largest, abs(float(rows.sums[slot, column])))
            for column in range(rows.rare.shape[1]):
                largest = max(largest, abs(float(rows.rare[slot, column])))
    return largest


@compiled
def rename(rows: Rows, entries: Entries, slots: Ints, moved: Ints) -> None:
    """Give the texts of these rows their new numbers."""
    for slot in slots:
        for column in range(rows.names.shape[1]):
            if rows.names[slot, column] >= 0:
                rows.names[slot, column] = moved[rows.names[slot, column]]
        at = rows.labels[slot]
        while at != NOTHING:
            kind, label = divmod(entries.links[at, sparse.KEY], LABEL_STEP)
            entries.links[at, sparse.KEY] = kind * LABEL_STEP + moved[label]
            at = entries.links[at, sparse.AFTER]
    _reindex(rows)


@compiled
def load(rows: Rows, entries: Entries, slots: Ints, stored: Stored) -> None:
    """Put rows as they were stored into their slots, one after the other."""
    for n in range(len(slots)):
        slot = slots[n]
        _clear(rows, entries, slot)
        common = rows.sums.shape[1]
        rows.sums[slot] = stored.sums[n, :common]
        for column in range(rows.rare.shape[1]):
            if rows.rare[slot, column] != stored.sums[n, common + column]:
                rows.rare[slot, column] = stored.sums[n, common + column]
        rows.state[slot] = stored.state[n] | LIVE
        rows.names[slot, BOOK] = stored.book[n]
        rows.names[slot, BASELINE] = stored.baseline[n]
        _load_entries(rows.classes, slot, entries, stored.classes, n)
        _load_buckets(rows.latency, slot, entries, stored.latency, n)
        _load_buckets(rows.cost, slot, entries, stored.cost, n)
        _load_entries(rows.labels, slot, entries, stored.labels, n)


@inlined
def _load_entries(heads: Links, slot: int, entries: Entries, listed: Listed, n: int) -> None:
    for place in range(listed.end[n - 1] if n else 0, listed.end[n]):
        key, first, second = listed.key[place], listed.first[place], listed.second[place]
        sparse.insert(heads, slot, entries, key, first, second)


@inlined
def _load_buckets(heads: Links, slot: int, entries: Entries, listed: Listed, n: int) -> None:
    for place in range(listed.end[n - 1] if n else 0, listed.end[n]):
        key, first, second = listed.key[place], listed.first[place], listed.second[place]
        sparse.insert(heads, way_of(slot, key, WAYS), entries, key, first, second)
