"""One event after the other added to the sums of its task, as machine code.

A task has a row of amounts and a row of marks, whose columns the constants here name. What a kept
compilation was made of is not looked at when another module changes: it stands here, or is given.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.compiled import compiled
from sluice.money import INT64_MAX
from sluice.wire.column_types import Bools, Ints

Marks = npt.NDArray[np.int32]

# Columns of `Store.amounts`; _AT are broker times but for STARTED_AT and LAST_SEEN_AT.
(OPENED_AT, STARTED_AT, LAST_SEEN_AT, SEEN_AT, EVENTS, STEPS, TOOL_CALLS, FAN_OUT, RETRIES,
 INPUT_TOKENS, OUTPUT_TOKENS, COST_PUSD, UNPRICED, TAIL_PUSD, LOOP_PUSD, GROSS_PUSD, BASELINE_PUSD,
 CACHED_TOKENS) = range(18)  # fmt: skip
AMOUNTS = 18
# Columns of `Store.marks`: numbers of texts, the depth, flags; blocks (0: none) and their use.
(PROJECT, AGENT, WORKFLOW, OUTCOME, SLO_OUTCOME, CACHED_MODEL, DEPTH, FLAGS, CHILDREN, PARENTS,
 SYMBOLS, SYMBOLS_END) = range(12)  # fmt: skip
MARKS, TEXTS = 12, 6
# Flags of a task; one that is not LIVE opens with the next event.
LIVE, ENDED, DIRTY, CHANGED, LOOPING, JUDGED = 1, 2, 4, 8, 16, 32
# Places in `Store.counts`.
DIRTY_COUNT, CHANGED_COUNT, FREE_CHILDREN, FREE_SYMBOLS = range(4)
COUNTS = 4
MEMORY = 64  # parents and symbols of a task, of each the newest
# Columns of an event; SYMBOL and PARENT are -1 where there is none.
(KIND, TIME, COST, TAIL, Q95, OCCURRED_AT, STARTED, INPUT, OUTPUT, CACHED, DEPTH_OF, PROJECT_OF,
 AGENT_OF, WORKFLOW_OF, OUTCOME_OF, SLO_OF, MODEL_OF, SYMBOL, PARENT) = range(19)  # fmt: skip
EVENT_COLUMNS = 19
# Bits of KIND.
CORRECTION, REQUEST, INFERENCE, TOOL, AGAIN, PRICED, KNOWN, HAD_NO_PRICE = (
    1, 2, 4, 8, 16, 32, 64, 128,
)  # fmt: skip
EMPTY_TEXT = 1  # numbers of texts: 0 is None, 1 is ""
_FAILED_BIT = 1
_GRAM, _GRAM_WINDOW = 3, 32
_PPM = 1_000_000


class Store(NamedTuple):
    """Rows of tasks by slot, blocks of their parents and symbols, and which slots wait for what.

    A block of `children` holds numbers of parents, oldest first, then their counts; one of
    `symbols` is a ring. Free blocks lie on stacks whose heights are in `counts`.
    """

    amounts: Ints
    marks: Marks
    children: Ints
    free_children: Ints
    symbols: Ints
    free_symbols: Ints
    dirty: Ints
    changed: Ints
    counts: Ints


class Norms(NamedTuple):
    """What tasks of the run normally cost at most, where that was measured; calls in a task."""

    q95_pusd: Ints
    known: Bools
    calls: int


class LoopRule(NamedTuple):
    """When symbols repeat, as `loops` says it."""

    same: int
    same_failed: int
    longest_period: int
    rounds: int


@compiled
def add_rows(
    store: Store, events: Ints, group: Ints, slots: Ints, norms: Norms, rule: LoopRule
) -> Ints:
    """Add events in their order; looping, cached_tokens, share of the tail, whether it is known."""
    effects = np.zeros((len(events), 4), dtype=np.int64)
    for i in range(len(events)):
        event, slot = events[i], slots[group[i]]
        amounts, marks = store.amounts[slot], store.marks[slot]
        looping, cached = 0, 0
        if not marks[FLAGS] & LIVE:
            _open(amounts, marks, event)
        elif not event[KIND] & CORRECTION:
            looping = 1 if marks[FLAGS] & LOOPING else 0
            if event[KIND] & REQUEST and marks[CACHED_MODEL] == event[MODEL_OF]:
                cached = amounts[CACHED_TOKENS]
        if event[SYMBOL] >= 0:
            looping = 1 if _symbol_loops(store, marks, event[SYMBOL], rule) else 0
        effects[i, 0], effects[i, 1] = looping, cached
        before = _task_tail(amounts, marks)
        _sum_up(amounts, marks, event, norms, group[i])
        if not event[KIND] & CORRECTION:
            _count(amounts, marks, event, looping)
            if event[PARENT] >= 0:
                _count_child(store, amounts, marks, event[PARENT])
        elif event[KIND] & HAD_NO_PRICE and event[KIND] & PRICED:
            amounts[UNPRICED] -= 1
        _touch(store, slot)
        if marks[FLAGS] & JUDGED:
            effects[i, 2], effects[i, 3] = _task_tail(amounts, marks) - before, 1
    return effects


@compiled
def _open(amounts: Ints, marks: Marks, event: Ints) -> None:
    amounts[:] = 0
    marks[:] = 0
    marks[FLAGS] = LIVE
    amounts[OPENED_AT] = amounts[SEEN_AT] = event[TIME]
    amounts[STARTED_AT], amounts[LAST_SEEN_AT] = event[STARTED], event[OCCURRED_AT]
    marks[PROJECT], marks[AGENT] = event[PROJECT_OF], event[AGENT_OF]
    marks[WORKFLOW] = event[WORKFLOW_OF]
    marks[OUTCOME] = marks[CACHED_MODEL] = EMPTY_TEXT


@compiled
def _task_tail(amounts: Ints, marks: Marks) -> int:
    judged = marks[FLAGS] & JUDGED and amounts[COST_PUSD] > amounts[BASELINE_PUSD]
    return amounts[COST_PUSD] - amounts[BASELINE_PUSD] if judged else 0


@compiled
def _sum_up(amounts: Ints, marks: Marks, event: Ints, norms: Norms, task: int) -> None:
    amounts[GROSS_PUSD] += abs(event[COST])
    amounts[INPUT_TOKENS] += event[INPUT]
    amounts[OUTPUT_TOKENS] += event[OUTPUT]
    if not marks[FLAGS] & JUDGED:
        if norms.known[task]:
            amounts[BASELINE_PUSD] = norms.q95_pusd[task]
            marks[FLAGS] |= JUDGED
        elif event[KIND] & KNOWN and event[KIND] & PRICED:
            most = INT64_MAX // norms.calls
            amounts[BASELINE_PUSD] = INT64_MAX if event[Q95] > most else norms.calls * event[Q95]
            marks[FLAGS] |= JUDGED
    amounts[COST_PUSD] += event[COST]
    amounts[TAIL_PUSD] += event[TAIL]


@compiled
def _count(amounts: Ints, marks: Marks, event: Ints, looping: int) -> None:
    kind = event[KIND]
    amounts[EVENTS] += 1
    if not kind & PRICED:
        amounts[UNPRICED] += 1
    if kind & AGAIN:
        amounts[RETRIES] += 1
    elif kind & REQUEST:
        amounts[STEPS] += 1
    elif kind & TOOL:
        amounts[TOOL_CALLS] += 1
    marks[DEPTH] = max(marks[DEPTH], event[DEPTH_OF])
    amounts[STARTED_AT] = min(amounts[STARTED_AT], event[STARTED])
    if event[OCCURRED_AT] >= amounts[LAST_SEEN_AT]:
        amounts[LAST_SEEN_AT], marks[OUTCOME] = event[OCCURRED_AT], event[OUTCOME_OF]
        if event[SLO_OF] > EMPTY_TEXT:
            marks[SLO_OUTCOME] = event[SLO_OF]
    amounts[SEEN_AT] = event[TIME]
    marks[FLAGS] &= ~ENDED
    if looping:
        amounts[LOOP_PUSD] += event[COST]
    if kind & INFERENCE:
        amounts[CACHED_TOKENS], marks[CACHED_MODEL] = event[CACHED], event[MODEL_OF]


@compiled
def _symbol_loops(store: Store, marks: Marks, symbol: int, rule: LoopRule) -> bool:
    """Remember a tool call; whether the task repeats itself with it, kept for what follows."""
    if not marks[SYMBOLS]:
        store.counts[FREE_SYMBOLS] -= 1
        marks[SYMBOLS] = store.free_symbols[store.counts[FREE_SYMBOLS]]
    ring = store.symbols[marks[SYMBOLS]]
    end = marks[SYMBOLS_END]
    ring[end % MEMORY] = symbol
    # Beyond MEMORY only the place in the ring is of interest.
    marks[SYMBOLS_END] = end + 1 if end + 1 < 2 * MEMORY else MEMORY
    looping = is_looping(ring, end, min(end + 1, MEMORY), rule)
    marks[FLAGS] = marks[FLAGS] | LOOPING if looping else marks[FLAGS] & ~LOOPING
    return looping


@compiled
def is_looping(ring: Ints, newest: int, length: int, rule: LoopRule) -> bool:
    """Whether the newest symbols of a ring go on with a repetition."""
    last = ring[newest % MEMORY]
    enough = rule.same_failed if last & _FAILED_BIT else rule.same
    if length >= enough and _is_same(ring, newest, enough):
        return True
    for period in range(2, rule.longest_period + 1):
        if length >= period * rule.rounds and not _is_same(
            ring, newest - period * (rule.rounds - 1), period
        ):
            back, rest = 0, period * (rule.rounds - 1)
            while (
                back < rest
                and ring[(newest - back) % MEMORY] == ring[(newest - back - period) % MEMORY]
            ):
                back += 1
            if back == rest:
                return True
    return False


@compiled
def _is_same(ring: Ints, newest: int, length: int) -> bool:
    back = 1
    while back < length and ring[(newest - back) % MEMORY] == ring[newest % MEMORY]:
        back += 1
    return back == length


@compiled
def _count_child(store: Store, amounts: Ints, marks: Marks, parent: int) -> None:
    if not marks[CHILDREN]:
        store.counts[FREE_CHILDREN] -= 1
        marks[CHILDREN] = store.free_children[store.counts[FREE_CHILDREN]]
    block, length = store.children[marks[CHILDREN]], marks[PARENTS]
    place, count = 0, 1
    while place < length and block[place] != parent:
        place += 1
    if place < length:
        count += block[MEMORY + place]
    elif length < MEMORY:
        length += 1
    else:
        place = 0  # the one that had no child for longest goes
    for later in range(place + 1, length):
        block[later - 1], block[MEMORY + later - 1] = block[later], block[MEMORY + later]
    block[length - 1], block[MEMORY + length - 1] = parent, count
    marks[PARENTS] = length
    amounts[FAN_OUT] = max(amounts[FAN_OUT], count)


@compiled
def _touch(store: Store, slot: int) -> None:
    """A task is to be published."""
    if not store.marks[slot, FLAGS] & DIRTY:
        store.marks[slot, FLAGS] |= DIRTY
        store.dirty[store.counts[DIRTY_COUNT]] = slot
        store.counts[DIRTY_COUNT] += 1
    _change(store, slot)


@compiled
def _change(store: Store, slot: int) -> None:
    """A task is to be stored."""
    if not store.marks[slot, FLAGS] & CHANGED:
        store.marks[slot, FLAGS] |= CHANGED
        store.changed[store.counts[CHANGED_COUNT]] = slot
        store.counts[CHANGED_COUNT] += 1


@compiled
def end_silent(store: Store, top: int, latest: int) -> int:
    """End the tasks below slot `top` last seen at `latest` or before; how many."""
    ended = 0
    for slot in range(top):
        flags = store.marks[slot, FLAGS]
        if flags & LIVE and not flags & ENDED and store.amounts[slot, SEEN_AT] <= latest:
            store.marks[slot, FLAGS] |= ENDED
            _touch(store, slot)
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
        _change(store, slot)
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
    for slot in slots:
        marks = store.marks[slot]
        if marks[CHILDREN]:
            store.free_children[store.counts[FREE_CHILDREN]] = marks[CHILDREN]
            store.counts[FREE_CHILDREN] += 1
        if marks[SYMBOLS]:
            store.free_symbols[store.counts[FREE_SYMBOLS]] = marks[SYMBOLS]
            store.counts[FREE_SYMBOLS] += 1
        marks[:] = 0
    store.counts[DIRTY_COUNT] = _marked(store, store.dirty, store.counts[DIRTY_COUNT], DIRTY)
    store.counts[CHANGED_COUNT] = _marked(
        store, store.changed, store.counts[CHANGED_COUNT], CHANGED
    )


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
def has_room(start: Ints, group: Ints, moves: Ints) -> bool:
    """Whether sums that begin at `start` stay within 64 bits with every row of `moves`."""
    sums = start.copy()
    for i in range(len(group)):
        for column in range(moves.shape[1]):
            total, by = sums[group[i], column], moves[i, column]
            if (by > 0 and total > INT64_MAX - by) or (by < 0 and total < -INT64_MAX - by):
                return False
            sums[group[i], column] = total + by
    return True
