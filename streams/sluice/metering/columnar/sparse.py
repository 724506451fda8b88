"""Counts that few rows have many of: entries of (key, two sums), chained per row.

A row has a head per kind of entry; from there entries lead to one another. Classes, histogram
buckets and labels of a window row are kept so: an array with a column for each would be nearly
empty. Entries of rows that are gone are used again.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sluice.compiled import compiled
from sluice.wire.column_types import Ints

Links = npt.NDArray[np.int32]
Number = TypeVar("Number", np.int64, np.int32, np.uint8)
NOTHING = -1
_USED, _FREE = 0, 1  # of `counts`: entries ever used, the first one that is free again


class Entries(NamedTuple):
    """Keys and sums of entries, which entry follows each, and how many there are."""

    key: Ints
    first: Ints
    second: Ints
    after: Links
    counts: Ints


class Found(NamedTuple):
    """Entries of some rows: the place of the row among them, the key and the two sums."""

    row: Ints
    key: Ints
    first: Ints
    second: Ints

    def where(self, kept: npt.NDArray[np.bool_]) -> Found:
        """Some of the entries."""
        return Found(*(column[kept] for column in self))

    def ordered(self, rank: Ints | None = None) -> Found:
        """By row and key, or by row and `rank` of each entry."""
        order = np.lexsort((self.key if rank is None else rank, self.row))
        return Found(*(column[order] for column in self))


def made(capacity: int) -> Entries:
    """Room for so many entries, all unused."""
    key, first, second = (np.zeros(capacity, dtype=np.int64) for _ in range(3))
    counts = np.array([0, NOTHING], dtype=np.int64)
    return Entries(key, first, second, np.zeros(capacity, dtype=np.int32), counts)


def with_room(entries: Entries, more: int) -> Entries:
    """The same entries with room for `more` at least."""
    needed = int(entries.counts[_USED]) + more
    if needed <= len(entries.key):
        return entries
    capacity = max(needed, len(entries.key) * 3 // 2)
    key, first, second = (grown(c, capacity) for c in (entries.key, entries.first, entries.second))
    return Entries(key, first, second, grown(entries.after, capacity), entries.counts)


def grown(column: npt.NDArray[Number], capacity: int) -> npt.NDArray[Number]:
    """A longer copy, zeros behind; untouched pages of it take no memory yet."""
    longer = np.zeros((capacity, *column.shape[1:]), dtype=column.dtype)
    longer[: len(column)] = column
    return longer


@compiled
def add(heads: Links, row: int, entries: Entries, key: int, first: int, second: int) -> None:
    """Add to the entry of a key of a row, which is made where there is none."""
    at = heads[row]
    while at != NOTHING:
        if entries.key[at] == key:
            entries.first[at] += first
            entries.second[at] += second
            return
        at = entries.after[at]
    insert(heads, row, entries, key, first, second)


@compiled
def insert(heads: Links, row: int, entries: Entries, key: int, first: int, second: int) -> None:
    """Put an entry of a new key before a row's others; there is room for it."""
    at = entries.counts[_FREE]
    if at == NOTHING:
        at = entries.counts[_USED]
        entries.counts[_USED] += 1
    else:
        entries.counts[_FREE] = entries.after[at]
    entries.key[at], entries.first[at], entries.second[at] = key, first, second
    entries.after[at] = heads[row]
    heads[row] = at


@compiled
def count_of(heads: Links, row: int, entries: Entries, low: int, high: int) -> int:
    """How many entries of a row have a key from `low` to below `high`."""
    found, at = 0, heads[row]
    while at != NOTHING:
        found += low <= entries.key[at] < high
        at = entries.after[at]
    return found


@compiled
def has(heads: Links, row: int, entries: Entries, key: int) -> bool:
    """Whether a row has an entry of this key."""
    at = heads[row]
    while at != NOTHING:
        if entries.key[at] == key:
            return True
        at = entries.after[at]
    return False


@compiled
def free(heads: Links, row: int, entries: Entries) -> None:
    """Give a row's entries back."""
    at = heads[row]
    while at != NOTHING:
        after = entries.after[at]
        entries.after[at] = entries.counts[_FREE]
        entries.counts[_FREE] = at
        at = after
    heads[row] = NOTHING


@compiled
def _collect(heads: Links, rows: Ints, entries: Entries, out: Ints) -> int:
    found = 0
    for place in range(len(rows)):
        at = heads[rows[place]]
        while at != NOTHING:
            if found < out.shape[1]:
                out[0, found], out[1, found] = place, entries.key[at]
                out[2, found], out[3, found] = entries.first[at], entries.second[at]
            found += 1
            at = entries.after[at]
    return found


def collect(heads: Links, rows: Ints, entries: Entries) -> Found:
    """The entries of some rows, in the order of the rows."""
    size = int(_collect(heads, rows, entries, np.zeros((4, 0), dtype=np.int64)))
    out = np.zeros((4, size), dtype=np.int64)
    _collect(heads, rows, entries, out)
    return Found(*out)
