"""Tasks that end, leave, are published or stored, and what is read from their rows."""

from __future__ import annotations

import numpy as np

from sluice.compiled import compiled
from sluice.metering.columnar.task_kernels import change, touch
from sluice.metering.columnar.task_layout import (
    CHANGED,
    CHANGED_COUNT,
    CHILDREN,
    DIRTY,
    DIRTY_COUNT,
    ENDED,
    FLAGS,
    FREE_CHILDREN,
    FREE_SYMBOLS,
    LIVE,
    MEMORY,
    SEEN_AT,
    SYMBOLS,
    SYMBOLS_END,
    Moves,
    Store,
)
from sluice.metering.loops import GRAM_WINDOW
from sluice.money import INT64_MAX
from sluice.wire.column_types import Ints

_GRAM, _GRAM_WINDOW = 3, GRAM_WINDOW
_PPM = 1_000_000


@compiled
def end_silent(store: Store, top: int, latest: int) -> int:
    """End the tasks below slot `top` last seen at `latest` or before; how many."""
    ended = 0
    for slot in range(top):
        flags = store.marks[slot, FLAGS]
        if flags & LIVE and not flags & ENDED and store.amounts[slot, SEEN_AT] <= latest:
            store.marks[slot, FLAGS] |= ENDED
            touch(store, slot)
            ended += 1
    return ended


@compiled
def over(store: Store, top: int, latest: int) -> Ints:
    """Slots below `top` that ended, were published, and were last seen before `latest`."""
    found = np.empty(top, dtype=np.int64)
    count = 0
    for slot in range(top):
        state = store.marks[slot, FLAGS] & (LIVE | ENDED | DIRTY)
        if state == LIVE | ENDED and store.amounts[slot, SEEN_AT] < latest:
            found[count] = slot
            count += 1
    return found[:count].copy()


@compiled
def next_due(store: Store, top: int, gap: int, keep: int) -> tuple[bool, int]:
    """The earliest time at which a task ends after `gap` or leaves after `keep`, if any does."""
    found, earliest = False, 0
    for slot in range(top):
        flags = store.marks[slot, FLAGS]
        if flags & LIVE:
            due = store.amounts[slot, SEEN_AT] + (keep if flags & ENDED else gap)
            earliest = min(earliest, due) if found else due
            found = True
    return found, earliest


@compiled
def published(store: Store) -> Ints:
    """Slots that waited to be published; they do so no longer."""
    slots = store.dirty[: store.counts[DIRTY_COUNT]].copy()
    for slot in slots:
        store.marks[slot, FLAGS] &= ~DIRTY
        change(store, slot)
    store.counts[DIRTY_COUNT] = 0
    return slots


@compiled
def stored(store: Store) -> Ints:
    """Slots that changed; they count as stored."""
    slots = store.changed[: store.counts[CHANGED_COUNT]].copy()
    for slot in slots:
        store.marks[slot, FLAGS] &= ~CHANGED
    store.counts[CHANGED_COUNT] = 0
    return slots


@compiled
def clear(store: Store, slots: Ints) -> None:
    """Empty the rows of some slots and give their blocks back."""
    waiting = 0
    for slot in slots:
        marks = store.marks[slot]
        waiting |= marks[FLAGS] & (DIRTY | CHANGED)
        if marks[CHILDREN]:
            store.free_children[store.counts[FREE_CHILDREN]] = marks[CHILDREN]
            store.counts[FREE_CHILDREN] += 1
        if marks[SYMBOLS]:
            store.free_symbols[store.counts[FREE_SYMBOLS]] = marks[SYMBOLS]
            store.counts[FREE_SYMBOLS] += 1
        marks[:] = 0
    if waiting:
        dirty, changed = store.counts[DIRTY_COUNT], store.counts[CHANGED_COUNT]
        store.counts[DIRTY_COUNT] = _marked(store, store.dirty, dirty, DIRTY)
        store.counts[CHANGED_COUNT] = _marked(store, store.changed, changed, CHANGED)


@compiled
def _marked(store: Store, slots: Ints, count: int, flag: int) -> int:
    """Keep the slots of a list that have a flag; how many."""
    kept = 0
    for place in range(count):
        if store.marks[slots[place], FLAGS] & flag:
            slots[kept] = slots[place]
            kept += 1
    return kept


@compiled
def scores(store: Store, slots: Ints) -> Ints:
    """Share of repeated runs of three among the last symbols (ppm); -1 with fewer than three."""
    found = np.full(len(slots), -1, dtype=np.int64)
    for i in range(len(slots)):
        marks = store.marks[slots[i]]
        length = min(marks[SYMBOLS_END], MEMORY, _GRAM_WINDOW)
        if length >= _GRAM:
            ring, newest = store.symbols[marks[SYMBOLS]], marks[SYMBOLS_END] - 1
            found[i] = _repeated(ring, newest, length) * _PPM // (length - _GRAM + 1)
    return found


@compiled
def _repeated(ring: Ints, newest: int, length: int) -> int:
    """How many runs of three among the newest symbols were there before."""
    repeated = 0
    for end in range(length - _GRAM + 1):
        for other in range(end):
            same = True
            for k in range(_GRAM):
                if ring[(newest - end - k) % MEMORY] != ring[(newest - other - k) % MEMORY]:
                    same = False
            if same:
                repeated += 1
                break
    return repeated


@compiled
def has_room(start: Ints, group: Ints, rows: Ints, moves: Moves) -> bool:
    """Whether sums (gross, input, output) of groups that begin at `start` stay within 64 bits."""
    sums = start.copy()
    for i in range(len(rows)):
        row, of = rows[i], sums[group[i]]
        gross = abs(moves.cost_pusd[row]) if moves.priced[row] else 0
        for column, by in enumerate((gross, moves.input_tokens[row], moves.output_tokens[row])):
            total = of[column]
            if (by > 0 and total > INT64_MAX - by) or (by < 0 and total < -INT64_MAX - by):
                return False
            of[column] = total + by
    return True
