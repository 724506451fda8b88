"""Hours of cohorts as arrays, and the compiled loops that count in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.compiled import compiled
from sluice.metering.columnar import sparse
from sluice.metering.columnar.buckets import bucket_of, way_of
from sluice.metering.columnar.sparse import NOTHING, Entries, Found, Links
from sluice.money import INT64_MAX
from sluice.wire.column_types import Ints

WAYS = 16  # chains of one histogram, which may have hundreds of buckets
DIRTY, CHANGED = 1, 2  # bits of `Rows.state`
_MOST = INT64_MAX


class Rows(NamedTuple):
    """Rows by slot: how many events, and the heads of their two histograms."""

    events: Ints
    state: npt.NDArray[np.uint8]
    cost: Links
    input: Links


def made(capacity: int) -> Rows:
    """Room for so many rows."""
    cost, tokens = (np.full(WAYS * capacity, NOTHING, dtype=np.int32) for _ in range(2))
    return Rows(np.zeros(capacity, np.int64), np.zeros(capacity, np.uint8), cost, tokens)


def wider(rows: Rows) -> Rows:
    """The same rows with room for twice as many."""
    held = len(rows.events)
    larger = made(2 * held)
    larger.events[:held], larger.state[:held] = rows.events, rows.state
    larger.cost[: len(rows.cost)], larger.input[: len(rows.input)] = rows.cost, rows.input
    return larger


@compiled
def add(rows: Rows, entries: Entries, slots: Ints, cost: Ints, tokens: Ints) -> None:
    """Count events in the hours of these slots, but those whose cost has no room there."""
    for n in range(len(slots)):
        slot, bucket = slots[n], bucket_of(cost[n])
        way = way_of(slot, bucket, WAYS)
        if sparse.second_of(rows.cost, way, entries, bucket) > _MOST - cost[n]:
            continue
        rows.events[slot] += 1
        rows.state[slot] |= DIRTY | CHANGED
        sparse.add(rows.cost, way, entries, bucket, 1, cost[n])
        bucket = bucket_of(tokens[n])
        way = way_of(slot, bucket, WAYS)
        sparse.add(rows.input, way, entries, bucket, 1, 0)


@compiled
def clear(rows: Rows, entries: Entries, slot: int) -> None:
    """Leave nothing of a row behind."""
    sparse.free_ways(rows.cost, slot, entries, WAYS)
    sparse.free_ways(rows.input, slot, entries, WAYS)
    rows.events[slot] = rows.state[slot] = 0


@compiled
def insert(heads: Links, entries: Entries, found: Found) -> None:
    """Put the buckets of one histogram of rows where there are none; `found.row` are slots."""
    for n in range(len(found.row)):
        key, first, second = found.key[n], found.first[n], found.second[n]
        way = way_of(found.row[n], key, WAYS)
        sparse.insert(heads, way, entries, key, first, second)
