"""Window rows as arrays, and the compiled loops that find rows and add usage to them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.compiled import compiled, inlined
from sluice.metering.columnar import sparse
from sluice.metering.columnar.sparse import NOTHING, Entries, Links
from sluice.metering.histogram import BORDERS, ZERO_BUCKET
from sluice.metering.quantities import TOKENS
from sluice.metering.row_sums import MAX_LABELS, MEASURED
from sluice.wire.column_types import Bools, Ints

# Columns of `Rows.sums`.
SUMS = (
    "events", "requests", *TOKENS, *MEASURED, "cost_pusd", "gross_pusd", "volume", "unpriced",
    "corrections", "corrected_pusd", "clamped", "body_pusd", "shoulder_pusd", "tail_pusd",
    "task_tail_pusd", "good", "refused", "averted_pusd", "packaged", "unlabelled", "revision",
    "measured",
)  # fmt: skip
EVENTS, REQUESTS, TOKENS_AT, MEASURED_AT = 0, 1, 2, 2 + len(TOKENS)
(COST, GROSS, VOLUME, UNPRICED, CORRECTIONS, CORRECTED, CLAMPED, BODY, SHOULDER, TAIL, TASK_TAIL,
 GOOD, REFUSED, AVERTED, PACKAGED, UNLABELLED, REVISION,
 KNOWN) = range(MEASURED_AT + len(MEASURED), len(SUMS))  # fmt: skip
# Columns of `Rows.names`: numbers of texts.
KEY_NAMES = ("tenant_id", "project_id", "model", "tool", "lane")
BOOK, BASELINE = len(KEY_NAMES), len(KEY_NAMES) + 1
WIDTH = len(KEY_NAMES) + 2
# Bits of `Rows.state`.
LIVE, CLOSED, DIRTY, CHANGED, TASKED = 1, 2, 4, 8, 16
# Kinds of labels: an entry's key is kind * LABEL_STEP + the label's number.
OUTCOMES, SLO_OUTCOMES, ROLLBACK_REASONS, RISK_FLAGS = range(4)
LABEL_STEP = 2**40
# Keys of classes are places in the list of classes; those of causes begin here.
CAUSES_AT = 2**20
_LATENCY = MEASURED.index("latency_us")
ROWS_USED, _ROW_FREE, ROWS_LIVE, _GONE_FROM_INDEX = range(4)  # of `Rows.counts`
# Chains of one histogram: a bucket is in that of its number's lowest bits.
WAYS = 4
_EMPTY, _GONE = -1, -2  # of `Rows.index`

_BORDERS = np.array(BORDERS, dtype=np.int64)


class Rows(NamedTuple):
    """Rows by slot; `places` finds slots by key, by open addressing."""

    sums: Ints
    start: Ints
    names: Links
    state: npt.NDArray[np.uint8]
    classes: Links
    latency: Links
    cost: Links
    labels: Links
    places: Links
    counts: Ints


class Keys(NamedTuple):
    """Identities of rows: numbers of the names as in KEY_NAMES, and begins (µs)."""

    names: Ints
    start: Ints


class Added(NamedTuple):
    """Labelled events of a run: a row of `numbers` or a column of the others per event.

    `tokens`, `measured` and `overhead` have one row per kind. `labels` are numbers of texts, -1
    where there is none; parts and flags of event n are those from `part_end[n - 1]` on.
    """

    slot: Ints
    tokens: Ints
    measured: Ints
    known: Bools
    cost_pusd: Ints
    priced: Bools
    correction: Bools
    original_pusd: Ints
    original_known: Bools
    bands: Ints
    overhead: Ints
    tail_by_cause: Ints
    task_tail_pusd: Ints
    task_tail_known: Bools
    request: Bools
    good: Bools
    clamped: Bools
    packaged: Bools
    labelled: Bools
    labels: Ints
    part_end: Ints
    part_key: Ints
    part_quantity: Ints
    part_cost: Ints
    flag_end: Ints
    flag: Ints


class Listed(NamedTuple):
    """Entries of stored rows; those of row n are from `end[n - 1]` on."""

    end: Ints
    key: Ints
    first: Ints
    second: Ints


class Stored(NamedTuple):
    """Rows as they were stored, in the order of their log."""

    sums: Ints
    state: npt.NDArray[np.uint8]
    book: Ints
    baseline: Ints
    classes: Listed
    latency: Listed
    cost: Listed
    labels: Listed


def made(capacity: int) -> Rows:
    """Room for so many rows."""
    classes, labels = (np.full(capacity, NOTHING, dtype=np.int32) for _ in range(2))
    latency, cost = (np.full(WAYS * capacity, NOTHING, dtype=np.int32) for _ in range(2))
    return Rows(
        np.zeros((capacity, len(SUMS)), dtype=np.int64), np.zeros(capacity, dtype=np.int64),
        np.zeros((capacity, WIDTH), dtype=np.int32), np.zeros(capacity, dtype=np.uint8),
        classes, latency, cost, labels, _index(capacity),
        np.array([0, NOTHING, 0, 0], dtype=np.int64),
    )  # fmt: skip


def with_room(rows: Rows, more: int) -> Rows:
    """The same rows with room for `more` at least."""
    live, gone = int(rows.counts[ROWS_LIVE]), int(rows.counts[_GONE_FROM_INDEX])
    held = len(rows.start)
    if live + more > held:
        rows = _wider(rows, max(live + more, held * 3 // 2))
    if 2 * (live + more + gone) > len(rows.places):
        reindex(rows)
    return rows


def _wider(rows: Rows, capacity: int) -> Rows:
    held = len(rows.start)
    classes, labels = (sparse.grown(heads, capacity) for heads in (rows.classes, rows.labels))
    latency, cost = (sparse.grown(heads, WAYS * capacity) for heads in (rows.latency, rows.cost))
    classes[held:] = labels[held:] = latency[WAYS * held :] = cost[WAYS * held :] = NOTHING
    wider = Rows(
        sparse.grown(rows.sums, capacity), sparse.grown(rows.start, capacity),
        sparse.grown(rows.names, capacity), sparse.grown(rows.state, capacity),
        classes, latency, cost, labels, _index(capacity), rows.counts,
    )  # fmt: skip
    reindex(wider)
    return wider


def _index(capacity: int) -> Links:
    """An index that half of its room is enough for."""
    return np.full(1 << (2 * capacity - 1).bit_length(), _EMPTY, dtype=np.int32)


@inlined
def _place(names: Ints, start: int, index: Links) -> int:
    """Where the search for a key begins."""
    mixed = np.uint64(start // 1_000_000)
    for number in names:
        mixed = (mixed ^ np.uint64(number)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.int64(mixed & np.uint64(len(index) - 1))  # type: ignore[return-value]


@compiled
def reindex(rows: Rows) -> None:
    """Build the index anew, as is needed once rows have left."""
    rows.places[:] = _EMPTY
    rows.counts[_GONE_FROM_INDEX] = 0
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
    slot = int(rows.counts[_ROW_FREE])
    if slot == NOTHING:
        slot = int(rows.counts[ROWS_USED])
        rows.counts[ROWS_USED] += 1
    else:
        rows.counts[_ROW_FREE] = rows.start[slot]
    rows.counts[ROWS_LIVE] += 1
    rows.start[slot] = start
    rows.names[slot, :5] = names
    rows.names[slot, 5:] = NOTHING
    rows.state[slot] = LIVE
    rows.sums[slot, :] = 0
    return slot


@compiled
def leave(rows: Rows, entries: Entries, slots: Ints) -> None:
    """Give slots and their entries back."""
    for slot in slots:
        at = _at(rows, rows.names[slot, :5].astype(np.int64), rows.start[slot])
        rows.places[at] = _GONE
        rows.counts[_GONE_FROM_INDEX] += 1
        clear(rows, entries, slot)
        rows.state[slot] = 0
        rows.start[slot] = rows.counts[_ROW_FREE]
        rows.counts[_ROW_FREE] = slot
        rows.counts[ROWS_LIVE] -= 1


@inlined
def clear(rows: Rows, entries: Entries, slot: int) -> None:
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
    return largest


@inlined
def touch(rows: Rows, slot: int) -> None:
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
        touch(rows, slot)
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
            rows.sums[slot, MEASURED_AT + kind] += run.measured[kind, n]
            rows.sums[slot, KNOWN] |= 1 << kind
    rows.sums[slot, CLAMPED] += run.clamped[n]


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
def way_of(slot: int, bucket: int) -> int:
    """The chain of a row's histogram that a bucket is in."""
    return slot * WAYS + (bucket & (WAYS - 1))


@inlined
def bucket_of(value: int) -> int:
    """The histogram bucket of a whole number from 0 on."""
    if value == 0:
        return ZERO_BUCKET
    low, high = 0, len(_BORDERS)
    while low < high:
        middle = (low + high) // 2
        if _BORDERS[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


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
    if run.known[_LATENCY, n]:
        bucket = bucket_of(run.measured[_LATENCY, n])
        sparse.add(rows.latency, way_of(slot, bucket), entries, bucket, 1, cost)
    if run.priced[n]:
        bucket = bucket_of(cost)
        sparse.add(rows.cost, way_of(slot, bucket), entries, bucket, 1, cost)
        sums[PACKAGED] += run.packaged[n]
        sums[UNLABELLED] += not run.labelled[n]


@inlined
def _count_label(
    rows: Rows, slot: int, entries: Entries, kind: int, label: int, other: int
) -> None:
    low, there = kind * LABEL_STEP, 0
    at = rows.labels[slot]
    while at != NOTHING:
        key = entries.cells[at, sparse.KEY]
        if key == low + label:
            entries.cells[at, sparse.FIRST] += 1
            return
        there += low <= key < low + LABEL_STEP
        at = entries.cells[at, sparse.AFTER]
    label = other if there >= MAX_LABELS else label
    sparse.add(rows.labels, slot, entries, low + label, 1, 0)


@inlined
def _correct(rows: Rows, slot: int, entries: Entries, run: Added, n: int) -> None:
    """Move the original's cost in the histogram from what it was to what it is."""
    sums, delta, before = rows.sums[slot], run.cost_pusd[n], run.original_pusd[n]
    sums[CORRECTIONS] += 1
    if not run.priced[n]:
        return
    sums[CORRECTED] += delta
    if run.original_known[n]:
        bucket = bucket_of(max(0, before))
        sparse.add(rows.cost, way_of(slot, bucket), entries, bucket, -1, -before)
    else:
        sums[UNPRICED] -= 1
    after = before + delta
    bucket = bucket_of(max(0, after))
    sparse.add(rows.cost, way_of(slot, bucket), entries, bucket, 1, after)


@compiled
def refuse(rows: Rows, slots: Ints, requests: Ints, averted_pusd: Ints) -> None:
    """Add reports of refused requests; nothing leaves 64 bits."""
    for n in range(len(slots)):
        touch(rows, slots[n])
        rows.sums[slots[n], REFUSED] += requests[n]
        rows.sums[slots[n], AVERTED] += averted_pusd[n]


@compiled
def rename(rows: Rows, entries: Entries, slots: Ints, moved: Ints) -> None:
    """Give the texts of these rows their new numbers."""
    for slot in slots:
        for column in range(rows.names.shape[1]):
            if rows.names[slot, column] >= 0:
                rows.names[slot, column] = moved[rows.names[slot, column]]
        at = rows.labels[slot]
        while at != NOTHING:
            kind, label = divmod(entries.cells[at, sparse.KEY], LABEL_STEP)
            entries.cells[at, sparse.KEY] = kind * LABEL_STEP + moved[label]
            at = entries.cells[at, sparse.AFTER]
    reindex(rows)


@compiled
def load(rows: Rows, entries: Entries, slots: Ints, stored: Stored) -> None:
    """Put rows as they were stored into their slots, one after the other."""
    for n in range(len(slots)):
        slot = slots[n]
        clear(rows, entries, slot)
        rows.sums[slot] = stored.sums[n]
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
        sparse.insert(heads, way_of(slot, key), entries, key, first, second)
