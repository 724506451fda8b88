"""Counts that few rows have many of: entries of (key, two sums), chained per row.

A row has a head per kind of entry, or for histograms, which get long, one for each of several
ways, and from there entries lead to one another. Classes, histogram buckets and labels of a window
row are kept so: an array with a column for each would be nearly empty. Entries of rows that are
gone are used again.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sluice.compiled import compiled, inlined
from sluice.wire.column_types import Ints

Links = npt.NDArray[np.int32]
Number = TypeVar("Number", np.int64, np.int32, np.uint8)
NOTHING = -1
_USED, _FREE = 0, 1  # of `counts`: entries ever used, the first one that is free again
KEY, AFTER = range(2)  # of `links`: a walk along a chain looks at nothing else
FIRST, SECOND = range(2)  # of `sums`


class Entries(NamedTuple):
    """Key of each entry and the entry that follows, its two sums, and how many there are.

    Keys are below 2^31.
    """

    links: Links
    sums: Ints
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
    counts = np.array([0, NOTHING], dtype=np.int64)
    links = np.zeros((capacity, 2), dtype=np.int32)
    return Entries(links, np.zeros((capacity, 2), dtype=np.int64), counts)


def with_room(entries: Entries, more: int) -> Entries:
    """The same entries with room for `more` at least."""
    needed, held = int(entries.counts[_USED]) + more, len(entries.links)
    if needed <= held:
        return entries
    capacity = max(needed, held * 3 // 2)
    links, sums = grown(entries.links, capacity), grown(entries.sums, capacity)
    return Entries(links, sums, entries.counts)


def grown(column: npt.NDArray[Number], capacity: int) -> npt.NDArray[Number]:
    """A longer copy, zeros behind; untouched pages of it take no memory yet."""
    longer = np.zeros((capacity, *column.shape[1:]), dtype=column.dtype)
    longer[: len(column)] = column
    return longer


@inlined
def add(heads: Links, row: int, entries: Entries, key: int, first: int, second: int) -> None:
    """Add to the entry of a key of a row, which is made where there is none."""
    at = heads[row]
    while at != NOTHING:
        if entries.links[at, KEY] == key:
            entries.sums[at, FIRST] += first
            entries.sums[at, SECOND] += second
            return
        at = entries.links[at, AFTER]
    insert(heads, row, entries, key, first, second)


@inlined
def insert(heads: Links, row: int, entries: Entries, key: int, first: int, second: int) -> None:
    """Put an entry of a new key before a row's others; there is room for it."""
    at = entries.counts[_FREE]
    if at == NOTHING:
        at = entries.counts[_USED]
        entries.counts[_USED] += 1
    else:
        entries.counts[_FREE] = entries.links[at, AFTER]
    entries.links[at, KEY], entries.links[at, AFTER] = key, heads[row]
    entries.sums[at, FIRST], entries.sums[at, SECOND] = first, second
    heads[row] = at


@inlined
def second_of(heads: Links, row: int, entries: Entries, key: int) -> int:
    """The second sum of a row's entry of this key, 0 where there is none."""
    at = heads[row]
    while at != NOTHING:
        if entries.links[at, KEY] == key:
            return int(entries.sums[at, SECOND])
        at = entries.links[at, AFTER]
    return 0


@inlined
def free(heads: Links, row: int, entries: Entries) -> None:
    """Give a row's entries back."""
    at = heads[row]
    while at != NOTHING:
        after = entries.links[at, AFTER]
        entries.links[at, AFTER] = entries.counts[_FREE]
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
                out[0, found], out[1, found] = place, entries.links[at, KEY]
                out[2, found], out[3, found] = entries.sums[at, FIRST], entries.sums[at, SECOND]
            found += 1
            at = entries.links[at, AFTER]
    return found


def collect_ways(heads: Links, rows: Ints, entries: Entries, ways: int) -> Found:
    """The entries of rows that have several chains each, side by side in `heads`."""
    chains = (rows[:, None] * ways + np.arange(ways)).ravel()
    found = collect(heads, chains, entries)
    return found._replace(row=found.row // ways)


@inlined
def free_ways(heads: Links, row: int, entries: Entries, ways: int) -> None:
    """Give the entries of all chains of a row back."""
    for chain in range(row * ways, (row + 1) * ways):
        free(heads, chain, entries)


def collect(heads: Links, rows: Ints, entries: Entries) -> Found:
    """The entries of some rows, in the order of the rows."""
    size = int(_collect(heads, rows, entries, np.zeros((4, 0), dtype=np.int64)))
    out = np.zeros((4, size), dtype=np.int64)
    _collect(heads, rows, entries, out)
    return Found(*out)
