"""One event after the other added to the sums of its task, as machine code."""

from __future__ import annotations

import numpy as np

from sluice.compiled import compiled
from sluice.metering.columnar.task_layout import (
    AGAIN,
    AGENT,
    AGENT_OF,
    BASELINE_PUSD,
    CACHED_MODEL,
    CACHED_TOKENS,
    CHANGED,
    CHANGED_COUNT,
    CHILDREN,
    CORRECTION,
    COST,
    COST_PUSD,
    DEPTH,
    DEPTH_OF,
    DIRTY,
    DIRTY_COUNT,
    EMPTY_TEXT,
    ENDED,
    EVENTS,
    FAN_OUT,
    FLAGS,
    FREE_CHILDREN,
    FREE_SYMBOLS,
    GROSS_PUSD,
    HAD_NO_PRICE,
    INFERENCE,
    INPUT,
    INPUT_TOKENS,
    JUDGED,
    KIND,
    KNOWN,
    LAST_SEEN_AT,
    LIVE,
    LOOP_PUSD,
    LOOPING,
    MEMORY,
    MODEL_OF,
    OCCURRED,
    OPENED_AT,
    OUTCOME,
    OUTCOME_OF,
    OUTPUT,
    OUTPUT_TOKENS,
    PARENT,
    PARENTS,
    PRICED,
    PROJECT,
    PROJECT_OF,
    Q95,
    READ,
    REQUEST,
    RETRIES,
    SEEN_AT,
    SLO_OF,
    SLO_OUTCOME,
    STARTED,
    STARTED_AT,
    STEPS,
    SYMBOL,
    SYMBOLS,
    SYMBOLS_END,
    TAIL,
    TAIL_PUSD,
    TIME,
    TOOL,
    TOOL_CALLS,
    UNPRICED,
    WORKFLOW,
    WORKFLOW_OF,
    WRITTEN,
    Kinds,
    LoopRule,
    Marks,
    Norms,
    Store,
)
from sluice.money import INT64_MAX
from sluice.wire.column_types import Ints

_FAILED_BIT = 1


@compiled
def gather(columns: tuple[Ints, ...], rows: Ints, events: Ints) -> None:
    """Put some rows of the columns of a run into the first columns of events."""
    for column in range(len(columns)):
        for i in range(len(rows)):
            events[i, column] = columns[column][rows[i]]


@compiled
def put_kinds(run: Kinds, rows: Ints, types: Ints, events: Ints) -> None:
    """Put the KIND of events in its column; `types`: the bits that the type of each one gives."""
    for i in range(len(rows)):
        row, kind = rows[i], types[i]
        if run.attempt[row] > 1 or run.attempt_kind_length[row] >= 0:
            kind |= AGAIN
        if run.priced[row]:
            kind |= PRICED
        if run.known[row]:
            kind |= KNOWN
        if not run.original_known[row]:
            kind |= HAD_NO_PRICE
        events[i, KIND] = kind


@compiled
def add_rows(
    store: Store, events: Ints, group: Ints, slots: Ints, norms: Norms, rule: LoopRule
) -> Ints:
    """Add events in their order; looping, cached_tokens, share of the tail, whether it is known."""
    effects = np.zeros((len(events), 4), dtype=np.int64)
    for i in range(len(events)):
        event, slot = events[i], slots[group[i]]
        if not event[KIND] & PRICED:
            event[COST] = 0
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
        touch(store, slot)
        if marks[FLAGS] & JUDGED:
            effects[i, 2], effects[i, 3] = _task_tail(amounts, marks) - before, 1
    return effects


@compiled
def _open(amounts: Ints, marks: Marks, event: Ints) -> None:
    amounts[:] = 0
    marks[:] = 0
    marks[FLAGS] = LIVE
    amounts[OPENED_AT] = amounts[SEEN_AT] = event[TIME]
    amounts[STARTED_AT], amounts[LAST_SEEN_AT] = event[STARTED], event[OCCURRED]
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
    if event[OCCURRED] >= amounts[LAST_SEEN_AT]:
        amounts[LAST_SEEN_AT], marks[OUTCOME] = event[OCCURRED], event[OUTCOME_OF]
        if event[SLO_OF] > EMPTY_TEXT:
            marks[SLO_OUTCOME] = event[SLO_OF]
    amounts[SEEN_AT] = event[TIME]
    marks[FLAGS] &= ~ENDED
    if looping:
        amounts[LOOP_PUSD] += event[COST]
    if kind & INFERENCE:
        amounts[CACHED_TOKENS], marks[CACHED_MODEL] = event[READ] + event[WRITTEN], event[MODEL_OF]


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
def touch(store: Store, slot: int) -> None:
    """A task is to be published."""
    if not store.marks[slot, FLAGS] & DIRTY:
        store.marks[slot, FLAGS] |= DIRTY
        store.dirty[store.counts[DIRTY_COUNT]] = slot
        store.counts[DIRTY_COUNT] += 1
    change(store, slot)


@compiled
def change(store: Store, slot: int) -> None:
    """A task is to be stored."""
    if not store.marks[slot, FLAGS] & CHANGED:
        store.marks[slot, FLAGS] |= CHANGED
        store.changed[store.counts[CHANGED_COUNT]] = slot
        store.counts[CHANGED_COUNT] += 1
