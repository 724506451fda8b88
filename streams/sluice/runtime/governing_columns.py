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
from sluice.runtime.incoming import Run
from sluice.wire.column_types import Bools, Ints


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


class Ledgers(Protocol):
    """Where ledgers are found, and who is told what became of them."""

    def opened(self, policy: Policy, budget: Budget, counted: Counted, group: int, run: Run,
               ) -> Charge:  # fmt: skip
        """The ledger of a group of events, opened where there is none."""

    def changed(self, key: LedgerKey, ledger: Ledger) -> None:
        """A ledger was charged."""

    def judge_at(self, charge: Charge, offset: int, time: int) -> None:
        """A ledger was charged by the event at `offset`; a rung may have moved."""


class _Share(NamedTuple):
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


class _Slow(NamedTuple):
    """A ledger that is charged event by event; `place` orders budgets."""

    place: int
    share: _Share
    group: int
    charge: Charge


def charge_run(charged: Charged, policies: list[Policy], ledgers: Ledgers) -> None:
    """Charge events within one second to the budgets of `policies`."""
    shares = list(_shares(charged, policies))
    groups = sorted(
        (first, place, group)
        for place, share in enumerate(shares)
        for group, first in enumerate(share.counted.first)
    )
    slow, span = [], (int(charged.run.time[0]), int(charged.run.time[-1]))
    for _, place, group in groups:
        share = shares[place]
        charge = ledgers.opened(share.policy, share.budget, share.counted, group, charged.run)
        if _may_move(charge, share.sums[group], span):
            slow.append(_Slow(place, share, group, charge))
        else:
            _add(charge.ledger, share, group, span[0])
        ledgers.changed(charge.key, charge.ledger)
    _one_by_one(slow, charged.run, ledgers)


def _shares(charged: Charged, policies: list[Policy]) -> Iterator[_Share]:
    run, facts = charged.run, facts_of(charged.run.usage, charged.cost_pusd, charged.priced)
    by_unit: dict[str, Ints] = {}
    for policy in policies:
        for budget in policy.budgets:
            found, unit = counted(budget, run.usage), budget.ledger_unit
            if found is None:
                continue
            if unit not in by_unit:
                by_unit[unit] = amounts(unit, run.usage, facts.cost_pusd)
            yield _share(policy, budget, found, facts.take(found.rows), by_unit[unit], run)


def _share(
    policy: Policy, budget: Budget, found: Counted, facts: Facts, by_row: Ints, run: Run
) -> _Share:
    used = settled = by_row[found.rows]
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
    return _Share(policy, budget, found, facts, used, backs, settled, added, burned)


def _may_move(charge: Charge, added: Sums, span: tuple[int, int]) -> bool:
    """Whether the rung of a ledger may change on the way to its new sum, within `span` (µs)."""
    _, ledger, budget, _ = charge
    budgets.pass_slices(ledger, budget, span[0])
    begins = budgets.is_current(ledger, span[0])
    if begins != budgets.is_current(ledger, span[1]):
        return True
    return begins and any(
        budgets.rung_at(budget, ledger, ledger.settled + by) != ledger.rung
        for by in (added.low, added.high)
    )


def _add(ledger: Ledger, share: _Share, group: int, time: int) -> None:
    """Add all events of a ledger at once."""
    added = share.sums[group]
    budgets.burn_by(ledger, share.burned[group], time)
    if share.backs is None:
        ledger.settled += added.total
    else:
        chosen = share.counted.of == group
        held = zip(share.backs[chosen].tolist(), share.settled[chosen].tolist(), strict=True)
        for back, settled in held:
            _settle_slice(ledger, back, settled)
    ledger.corrected += added.corrected
    ledger.events += added.events
    ledger.unpriced += added.unpriced


def _settle_slice(ledger: Ledger, back: int, settled: int) -> None:
    if back <= SLICES:
        ledger.slices[back] += settled
        ledger.settled += settled


def _one_by_one(slow: list[_Slow], run: Run, ledgers: Ledgers) -> None:
    """Charge events in their order, and each to its ledgers in theirs, and judge after each."""
    events = sorted(
        (row, one.place, number, at)
        for number, one in enumerate(slow)
        for row, at in _events(one.share.counted, one.group)
    )
    for row, _, number, at in events:
        share, charge = slow[number].share, slow[number].charge
        ledger, time, facts = charge.ledger, int(run.time[row]), share.facts
        used, settled = int(share.used[at]), int(share.settled[at])
        budgets.burn_by(ledger, used, time)
        if share.backs is None:
            ledger.settled += settled
        else:
            _settle_slice(ledger, int(share.backs[at]), settled)
        budgets.count(
            ledger, settled, priced=bool(facts.priced[at]), correction=bool(facts.correction[at]),
            gives_price=bool(facts.gives_price[at]),
        )  # fmt: skip
        ledgers.judge_at(charge, run.records[row].offset, time)


def _events(found: Counted, group: int) -> Iterator[tuple[int, int]]:
    """Row in the run and place among the counted ones of each event of a ledger."""
    at = np.flatnonzero(found.of == group)
    return zip(found.rows[at].tolist(), at.tolist(), strict=True)
