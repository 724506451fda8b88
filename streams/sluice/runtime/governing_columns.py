"""Runs of usage charged to ledgers: whole groups at once where nothing can happen on the way.

Where a rung may move, a ledger is charged event by event in their order, so that the decision is
located at its event. The outcome is the same as if every event came alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from sluice.enforcement import budgets
from sluice.enforcement.budgets import SLICES, Ledger, LedgerKey
from sluice.enforcement.columnar import (
    Counted,
    Facts,
    Sums,
    amounts,
    counted,
    facts_of,
    sums,
    totals,
)
from sluice.enforcement.policy import Budget, Policy
from sluice.metering.columnar.usage import grouped
from sluice.runtime.incoming import Run
from sluice.wire.column_types import Bools, Coded, Ints

# Far enough from 64 bits that no sum of a run leaves them.
ROOM = 2.0**62


class Charge(NamedTuple):
    """A ledger that events are charged to, with the rules that judge it."""

    key: LedgerKey
    ledger: Ledger
    budget: Budget
    policy: Policy


class Charged(NamedTuple):
    """Events that were added up, and what each of them cost (0 where it has no price)."""

    run: Run
    cost_pusd: Ints
    priced: Bools


class Taken(NamedTuple):
    """Events that count in a budget, and what each of them takes of it."""

    policy: Policy
    budget: Budget
    counted: Counted
    facts: Facts
    used: Ints


class Ledgers(Protocol):
    """Where ledgers are found, and who is told what became of them."""

    def opened(self, policy: Policy, budget: Budget, counted: Counted, group: int, run: Run,
               ) -> Charge:  # fmt: skip
        """The ledger of a group of events, opened where there is none."""

    def changed(self, key: LedgerKey, ledger: Ledger) -> None:
        """A ledger was charged."""

    def tally(self, key: LedgerKey, source: str, source_epoch: str, used: int) -> None:
        """A process has used some of a hard budget."""

    def judge_at(self, charge: Charge, offset: int, time: int) -> None:
        """A ledger was charged by the event at `offset`; a rung may have moved."""


class _Part(NamedTuple):
    """What a run has for one budget: amounts by event, sums by ledger."""

    policy: Policy
    budget: Budget
    counted: Counted
    facts: Facts
    used: Ints
    backs: Ints | None  # how many slices ago events of a rolling period were admitted
    settled: Ints  # what of `used` enters the sum: what a rolling period still holds
    sums: list[Sums]
    burned: list[int]


class _One(NamedTuple):
    """A ledger of a run; `place` orders budgets."""

    place: int
    part: _Part
    group: int
    charge: Charge


def moved(units: set[str], charged: Charged) -> float:
    """The most that a sum in one of these units can move, whichever of the events are added."""
    if not units:
        return 0.0
    usage, cost = charged.run.usage, np.where(charged.priced, charged.cost_pusd, 0)
    columns = [amounts(unit, usage, cost).astype(np.float64) for unit in sorted(units)]
    return max(float(np.abs(column).sum()) for column in columns)


def taken(charged: Charged, governed: list[tuple[Policy, Budget]]) -> Iterator[Taken]:
    """What events take of each budget that they count in."""
    if not governed:
        return
    run, facts = charged.run, facts_of(charged.run.usage, charged.cost_pusd, charged.priced)
    by_unit: dict[str, Ints] = {}
    for policy, budget in governed:
        found, unit = counted(budget, run.usage), budget.ledger_unit
        if found is None:
            continue
        if unit not in by_unit:
            by_unit[unit] = amounts(unit, run.usage, facts.cost_pusd)
        rows = found.rows
        yield Taken(policy, budget, found, facts.take(rows), by_unit[unit][rows])


def charge_run(charged: Charged, governed: list[tuple[Policy, Budget]], ledgers: Ledgers) -> None:
    """Charge events within one second to the budgets that are `governed`."""
    parts = [_part(of, charged.run) for of in taken(charged, governed)]
    groups = sorted(
        (first, place, group)
        for place, part in enumerate(parts)
        for group, first in enumerate(part.counted.first)
    )
    span = (int(charged.run.time[0]), int(charged.run.time[-1]))
    ones = [_one(place, parts[place], group, charged.run, ledgers) for _, place, group in groups]
    moving = [_may_move(one.charge, one.part.sums[one.group], span) for one in ones]
    # Rows of a hard ledger say what is held in others that draw on it, at each event.
    all_hard = any(move and one.part.budget.hard for one, move in zip(ones, moving, strict=True))
    slow: list[_One] = []
    fast: list[_One] = []
    for one, move in zip(ones, moving, strict=True):
        (slow if move or (all_hard and one.part.budget.hard) else fast).append(one)
    for one in fast:
        _add(one.charge.ledger, one.part, one.group, span[0])
    _tally(fast, charged.run, ledgers)
    for one in ones:
        ledgers.changed(one.charge.key, one.charge.ledger)
    _one_by_one(slow, charged.run, ledgers)


def _one(place: int, part: _Part, group: int, run: Run, ledgers: Ledgers) -> _One:
    charge = ledgers.opened(part.policy, part.budget, part.counted, group, run)
    return _One(place, part, group, charge)


def _part(of: Taken, run: Run) -> _Part:
    policy, budget, found, facts, used = of
    settled = used
    backs, count = None, len(found.first)
    if budget.rolling_us is not None:
        length = budgets.slice_us(budget)
        started = run.usage.number("started_at").value[found.rows]
        backs = np.maximum(0, run.time[found.rows] // length - started // length)
        settled = np.where(backs <= SLICES, used, 0)
    added = sums(found.of, count, settled, facts)
    burned = [of.total for of in added]
    if backs is not None:
        burned = totals(found.of, count, used).tolist()
    return _Part(policy, budget, found, facts, used, backs, settled, added, burned)


def _may_move(charge: Charge, added: Sums, span: tuple[int, int]) -> bool:
    """Whether the rung of a ledger may change on the way to its new sum, within `span` (µs)."""
    _, ledger, budget, _ = charge
    budgets.pass_slices(ledger, budget, span[0])
    begins = budgets.is_current(ledger, span[0])
    if begins != budgets.is_current(ledger, span[1]):
        return True
    if not begins:
        return False
    low = budgets.rung_at(budget, ledger, ledger.settled + added.low)
    return low != ledger.rung or low != budgets.rung_at(budget, ledger, ledger.settled + added.high)


def _add(ledger: Ledger, part: _Part, group: int, time: int) -> None:
    """Add all events of a ledger at once."""
    added = part.sums[group]
    budgets.burn_by(ledger, part.burned[group], time)
    if part.backs is None:
        ledger.settled += added.total
    else:
        chosen = part.counted.of == group
        held = zip(part.backs[chosen].tolist(), part.settled[chosen].tolist(), strict=True)
        for back, settled in held:
            _settle_slice(ledger, back, settled)
    budgets.count_many(
        ledger, corrected=added.corrected, events=added.events, unpriced=added.unpriced
    )


def _tally(fast: list[_One], run: Run, ledgers: Ledgers) -> None:
    """Tell which processes used how much of the hard budgets."""
    hard = [one for one in fast if one.part.budget.hard]
    if not hard:
        return
    by_holder, sources, epochs = reported(run)
    by_place = {(one.place, one.group): one.charge.key for one in hard}
    for place, part in {one.place: one.part for one in hard}.items():
        rows = part.counted.rows
        chosen = np.flatnonzero(by_holder[rows])
        at, of = rows[chosen], part.counted.of[chosen]
        first, pair = grouped(of, sources.codes[at], epochs.codes[at])
        used = totals(pair, len(first), part.used[chosen]).tolist()
        for n, row in enumerate(first.tolist()):
            key = by_place.get((place, int(of[row])))
            if key is not None:
                source, epoch = (c.values[c.codes[at[row]]] or "" for c in (sources, epochs))
                ledgers.tally(key, source, epoch, used[n])


def reported(run: Run) -> tuple[Bools, Coded, Coded]:
    """Events that a holder emitted for calls of its own, and who that was."""
    numbers = run.usage.number("source_seq")
    calls = ~run.usage.coded("event_type").where("correction", "gpu_adjustment")
    by_holder = calls & numbers.known & (numbers.value >= 1)
    return by_holder, run.usage.coded("source"), run.usage.coded("source_epoch")


def _settle_slice(ledger: Ledger, back: int, settled: int) -> None:
    if back <= SLICES:
        ledger.slices[back] += settled
        ledger.settled += settled


def _one_by_one(slow: list[_One], run: Run, ledgers: Ledgers) -> None:
    """Charge events in their order, and each to its ledgers in theirs, and judge after each."""
    events = sorted(
        (row, one.place, number, at)
        for number, one in enumerate(slow)
        for row, at in _events(one.part.counted, one.group)
    )
    if not events:
        return
    by_holder, sources, epochs = reported(run)
    for row, _, number, at in events:
        part, charge = slow[number].part, slow[number].charge
        ledger, time, facts = charge.ledger, int(run.time[row]), part.facts
        used, settled = int(part.used[at]), int(part.settled[at])
        budgets.burn_by(ledger, used, time)
        if part.backs is None:
            ledger.settled += settled
        else:
            _settle_slice(ledger, int(part.backs[at]), settled)
        budgets.count(
            ledger, settled, priced=bool(facts.priced[at]), correction=bool(facts.correction[at]),
            gives_price=bool(facts.gives_price[at]),
        )  # fmt: skip
        if part.budget.hard and by_holder[row]:
            source, epoch = (c.values[c.codes[row]] or "" for c in (sources, epochs))
            ledgers.tally(charge.key, source, epoch, used)
        ledgers.judge_at(charge, run.records[row].offset, time)


def _events(found: Counted, group: int) -> Iterator[tuple[int, int]]:
    """Row in the run and place among the counted ones of each event of a ledger."""
    at = np.flatnonzero(found.of == group)
    return zip(found.rows[at].tolist(), at.tolist(), strict=True)
