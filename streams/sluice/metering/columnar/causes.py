"""Costs and tails of many events split over their causes; `causes` says the rules for one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sluice.compiled import compiled, inlined
from sluice.metering.causes import (
    ABANDONED,
    CAUSES,
    CONTEXT_GROWTH,
    FIRST_PASS,
    HEDGE,
    INPUT_CLASSES,
    LOOP,
    NEW_INPUT_CLASSES,
    QUEUE_HOLD,
    RECOMPUTE,
    RETRY,
    TIMED_CLASSES,
)
from sluice.metering.classes import RATE_CLASSES, UNCLASSIFIED
from sluice.metering.columnar.rating import Parts
from sluice.metering.columnar.usage import Usage
from sluice.money import INT64_MAX
from sluice.wire.column_types import Bools, Ints

_CLASSES = (*RATE_CLASSES, UNCLASSIFIED)
_MOST = INT64_MAX
_OPEN = -1  # no cause that takes the whole cost


class Contexts(NamedTuple):
    """What was known before each event; a `usual_input` of 0 is unknown."""

    looping: Bools
    cached_tokens: Ints
    usual_input: Ints


class Splits(NamedTuple):
    """Per cause a row, per event a column."""

    overhead: Ints
    tail_by_cause: Ints


class _Events(NamedTuple):
    whole: Ints
    cost: Ints
    tail: Ints
    correction: Bools
    new_input: Ints
    all_input: Ints
    timed: Ints
    tokens: Ints
    read: Ints
    recomputed: Ints
    waited: Ints
    lasted: Ints


def split(
    usage: Usage, cost_pusd: Ints, tail_pusd: Ints, parts: Parts, contexts: Contexts
) -> Splits:
    """Costs and tails of events per cause; both are 0 where an event has no price."""
    overhead = np.zeros((len(CAUSES), usage.rows), dtype=np.int64)
    tail = np.zeros_like(overhead)
    events = _Events(
        _whole(usage, contexts.looping), cost_pusd, tail_pusd,
        usage.coded("event_type").where("correction"),
        *(_cost_of(parts, names, usage.rows)
          for names in (NEW_INPUT_CLASSES, INPUT_CLASSES, TIMED_CLASSES)),
        *(usage.number(name).value
          for name in ("input_tokens", "cache_read_input_tokens", "recomputed_input_tokens",
                       "queue_us", "latency_us")),
    )  # fmt: skip
    _split(events, contexts, overhead, tail)
    return Splits(overhead, tail)


def _whole(usage: Usage, looping: Bools) -> Ints:
    """The cause that takes all of an event's cost, the first that applies."""
    kind = usage.coded("attempt_kind")
    again = (usage.number("attempt").value > 1) | ~kind.where(None)
    unused = usage.coded("slo_outcome").where("abandoned") | usage.coded("outcome").where(
        "cancelled"
    )
    return np.select(
        [kind.where("hedge"), again, looping, unused], [HEDGE, RETRY, LOOP, ABANDONED], _OPEN
    ).astype(np.int64)


def _cost_of(parts: Parts, names: frozenset[str], rows: int) -> Ints:
    chosen = np.array([name in names for name in _CLASSES], dtype=np.bool_)[parts.key]
    costs = np.zeros(rows, dtype=np.int64)
    np.add.at(costs, parts.row[chosen], parts.cost_pusd[chosen])
    return costs


@compiled
def _split(events: _Events, contexts: Contexts, overhead: Ints, tail: Ints) -> None:
    for n in range(len(events.cost)):
        if events.whole[n] != _OPEN:
            overhead[events.whole[n], n] = events.cost[n]
        elif events.correction[n]:
            overhead[FIRST_PASS, n] = events.cost[n]
        else:
            _shares(events, contexts, overhead, n)
        if events.correction[n]:
            for cause in range(overhead.shape[0]):
                if overhead[cause, n]:
                    tail[cause, n] = events.tail[n]
        else:
            _allocate(events.tail[n], overhead, tail, n)


@inlined
def _shares(events: _Events, contexts: Contexts, overhead: Ints, n: int) -> None:
    tokens, read = events.tokens[n], events.read[n]
    fresh = tokens - read
    again = min(fresh, max(events.recomputed[n], contexts.cached_tokens[n] - read, 0))
    recompute = part_of(events.new_input[n], again, fresh)[0] if again > 0 else 0
    growth = 0
    if contexts.usual_input[n]:
        beyond = min(tokens - contexts.usual_input[n], tokens - again)
        if beyond > 0:
            growth = part_of(events.all_input[n] - recompute, beyond, tokens - again)[0]
    held = 0
    if events.waited[n] > 0 and events.lasted[n] > 0:
        waited = min(events.waited[n], events.lasted[n])
        held = part_of(events.timed[n], waited, events.lasted[n])[0]
    overhead[RECOMPUTE, n], overhead[CONTEXT_GROWTH, n] = recompute, growth
    overhead[QUEUE_HOLD, n] = held
    overhead[FIRST_PASS, n] = events.cost[n] - recompute - growth - held


@inlined
def _allocate(amount: int, overhead: Ints, tail: Ints, n: int) -> None:
    """`amount` in the proportions of an event's shares, by largest remainder, ties by place."""
    whole = overhead[:, n].sum()
    if amount == 0 or whole == 0:
        return
    rests = np.zeros(overhead.shape[0], dtype=np.int64)
    left = amount
    for cause in range(len(rests)):
        given, rests[cause] = part_of(amount, overhead[cause, n], whole)
        tail[cause, n] = given
        left -= given
    for _ in range(left):
        largest = 0
        for cause in range(1, len(rests)):
            if rests[cause] > rests[largest]:
                largest = cause
        tail[largest, n] += 1
        rests[largest] = -1


@compiled
def part_of(amount: int, share: int, whole: int) -> tuple[int, int]:
    """Quotient and rest of amount * share / whole, for 0 <= share <= whole and any 64 bits."""
    if share == 0 or amount <= _MOST // share:
        return amount * share // whole, amount * share % whole
    quotient, rest = np.uint64(0), np.uint64(0)
    by, one = np.uint64(whole), np.uint64(1)
    for bit in range(62, -1, -1):
        quotient, rest = quotient << one, rest << one
        if rest >= by:
            rest, quotient = rest - by, quotient | one
        if amount >> bit & 1:
            rest += np.uint64(share)
            if rest >= by:
                rest, quotient = rest - by, quotient + one
    return np.int64(quotient), np.int64(rest)  # type: ignore[return-value]
