"""The compiled loops that add usage to window rows.

`gross_pusd` sums the absolute amounts of everything that went into a row. While it fits 64 bits,
every sum of money in the row does too, whatever corrections take away again: one check guards all.
"""

from __future__ import annotations

from sluice.compiled import compiled, inlined
from sluice.metering.columnar import sparse
from sluice.metering.columnar.buckets import bucket_of, way_of
from sluice.metering.columnar.sparse import NOTHING, Entries
from sluice.metering.columnar.window_layout import (
    AVERTED,
    BASELINE,
    BODY,
    BOOK,
    CAUSES_AT,
    CHANGED,
    CLAMPED,
    CLOSED,
    CORRECTED,
    CORRECTIONS,
    COST,
    DIRTY,
    EVENTS,
    FEW,
    GOOD,
    GROSS,
    KNOWN,
    LABEL_STEP,
    LATENCY,
    PACKAGED,
    REFUSED,
    REQUESTS,
    REVISION,
    RISK_FLAGS,
    TASK_TAIL,
    TASKED,
    TIMES_AT,
    TOKENS_AT,
    UNLABELLED,
    UNPRICED,
    VOLUME,
    WAYS,
    Added,
    Rows,
)
from sluice.metering.windows import MAX_LABELS
from sluice.wire.column_types import Ints


@inlined
def _touch(rows: Rows, slot: int) -> None:
    """A row changed and is to be published; a closed one that had been is revised by that."""
    state = rows.state[slot]
    if state & CLOSED and not state & DIRTY:
        rows.sums[slot, REVISION] += 1
    rows.state[slot] = state | DIRTY | CHANGED


@compiled
def add(rows: Rows, entries: Entries, run: Added, book: int, baseline: int, other: int) -> None:
    """Add every event of a run to its row; nothing leaves 64 bits."""
    for n in range(len(run.slot)):
        slot = run.slot[n]
        _touch(rows, slot)
        _add_amounts(rows, slot, run, n)
        _add_parts(rows, slot, entries, run, n)
        _add_money(rows, slot, entries, run, n)
        if run.correction[n]:
            _correct(rows, slot, entries, run, n)
        else:
            _count(rows, slot, entries, run, n, other)
            rows.names[slot, BOOK] = book
            rows.names[slot, BASELINE] = baseline


@inlined
def _add_amounts(rows: Rows, slot: int, run: Added, n: int) -> None:
    for kind in range(run.tokens.shape[0]):
        rows.sums[slot, TOKENS_AT + kind] += run.tokens[kind, n]
    for kind in range(run.measured.shape[0]):
        if run.known[kind, n]:
            if kind < FEW:
                rows.rare[slot, kind] += run.measured[kind, n]
            else:
                rows.sums[slot, TIMES_AT + kind - FEW] += run.measured[kind, n]
            rows.sums[slot, KNOWN] |= 1 << kind
    if run.clamped[n]:
        rows.rare[slot, CLAMPED] += 1


@inlined
def _add_parts(rows: Rows, slot: int, entries: Entries, run: Added, n: int) -> None:
    begin = run.part_end[n - 1] if n else 0
    for place in range(begin, run.part_end[n]):
        quantity, cost = run.part_quantity[place], run.part_cost[place]
        sparse.add(rows.classes, slot, entries, run.part_key[place], quantity, cost)
        rows.sums[slot, VOLUME] += abs(quantity)


@inlined
def _gross(run: Added, n: int) -> int:
    """A bound of every amount of money that the event adds to or takes from one sum."""
    begin = run.part_end[n - 1] if n else 0
    classes = 0
    for place in range(begin, run.part_end[n]):
        classes += int(abs(run.part_cost[place]))
    cost = int(abs(run.cost_pusd[n]))
    if run.correction[n]:
        # It takes its original out of one bucket and puts it into another one.
        cost += 2 * int(abs(run.original_pusd[n]))
    return max(classes, cost)


@inlined
def _add_money(rows: Rows, slot: int, entries: Entries, run: Added, n: int) -> None:
    rows.sums[slot, GROSS] += _gross(run, n)
    rows.sums[slot, COST] += run.cost_pusd[n]
    for band in range(3):
        rows.sums[slot, BODY + band] += run.bands[band, n]
    for cause in range(run.overhead.shape[0]):
        whole, tail = run.overhead[cause, n], run.tail_by_cause[cause, n]
        if whole or tail:
            sparse.add(rows.classes, slot, entries, CAUSES_AT + cause, whole, tail)
    if run.task_tail_known[n]:
        rows.sums[slot, TASK_TAIL] += run.task_tail_pusd[n]
        rows.state[slot] |= TASKED


@inlined
def _count(rows: Rows, slot: int, entries: Entries, run: Added, n: int, other: int) -> None:
    sums, cost = rows.sums[slot], run.cost_pusd[n]
    sums[EVENTS] += 1
    sums[REQUESTS] += run.request[n]
    sums[UNPRICED] += not run.priced[n]
    sums[GOOD] += run.good[n]
    for kind in range(3):
        if run.labels[kind, n] >= 0:
            _count_label(rows, slot, entries, kind, run.labels[kind, n], other)
    for place in range(run.flag_end[n - 1] if n else 0, run.flag_end[n]):
        _count_label(rows, slot, entries, RISK_FLAGS, run.flag[place], other)
    if run.known[LATENCY, n]:
        bucket = bucket_of(run.measured[LATENCY, n])
        sparse.add(rows.latency, way_of(slot, bucket, WAYS), entries, bucket, 1, cost)
    if run.priced[n]:
        bucket = bucket_of(cost)
        sparse.add(rows.cost, way_of(slot, bucket, WAYS), entries, bucket, 1, cost)
        sums[PACKAGED] += run.packaged[n]
        sums[UNLABELLED] += not run.labelled[n]


@inlined
def _count_label(
    rows: Rows, slot: int, entries: Entries, kind: int, label: int, other: int
) -> None:
    low, there = kind * LABEL_STEP, 0
    at = rows.labels[slot]
    while at != NOTHING:
        key = entries.links[at, sparse.KEY]
        if key == low + label:
            entries.sums[at, sparse.FIRST] += 1
            return
        there += low <= key < low + LABEL_STEP
        at = entries.links[at, sparse.AFTER]
    label = other if there >= MAX_LABELS else label
    sparse.add(rows.labels, slot, entries, low + label, 1, 0)


@inlined
def _correct(rows: Rows, slot: int, entries: Entries, run: Added, n: int) -> None:
    """Move the original's cost in the histogram from what it was to what it is."""
    delta, before = run.cost_pusd[n], run.original_pusd[n]
    rows.rare[slot, CORRECTIONS] += 1
    if not run.priced[n]:
        return
    rows.rare[slot, CORRECTED] += delta
    if run.original_known[n]:
        bucket = bucket_of(max(0, before))
        sparse.add(rows.cost, way_of(slot, bucket, WAYS), entries, bucket, -1, -before)
    else:
        rows.sums[slot, UNPRICED] -= 1
    after = before + delta
    bucket = bucket_of(max(0, after))
    sparse.add(rows.cost, way_of(slot, bucket, WAYS), entries, bucket, 1, after)


@compiled
def refuse(rows: Rows, slots: Ints, requests: Ints, averted_pusd: Ints) -> None:
    """Add reports of refused requests; nothing leaves 64 bits."""
    for n in range(len(slots)):
        _touch(rows, slots[n])
        rows.rare[slots[n], REFUSED] += requests[n]
        rows.rare[slots[n], AVERTED] += averted_pusd[n]
