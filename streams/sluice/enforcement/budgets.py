"""Budget ledgers: what a scope has used in a period, and which rung of the ladder it stands on.

A charge is located at its event: the crossing of a threshold belongs to the event whose amount
takes the sum over it, whatever chunk the event came in.

A rolling period is a ring of 60 slices and the one that runs: at the border of two slices the sum
covers exactly the length of the period, between borders up to one slice more, never less.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple, cast

import msgspec

from sluice.enforcement import burn
from sluice.enforcement.policy import Budget, Policy
from sluice.money import checked_sum, clamped
from sluice.periods import PERIOD_KINDS, Period, PeriodKind, period_of

SLICES = 60
# A ledger of a task takes usage for so long after the first; runaway tasks are over by then.
TASK_US = 7 * 86_400_000_000


class LedgerKey(NamedTuple):
    """Identity of a ledger: one budget, one scope (as BudgetRow.scope), one period."""

    policy_id: str
    budget_id: str
    scope: str
    period_id: str


class Ledger(msgspec.Struct, array_like=True):
    """Usage of one scope in one period and the decision that stands because of it.

    Amounts are in `unit`. `limit` holds until `limit_until` (None: a raise has no say in it).
    `rung` counts the budget's rules that the usage has reached; `decision_id` is the standing
    decision (None: none), number `sequence`, which ends at `expires_at`; `dirty` rows wait to be
    published. `slices` are those of a rolling period, the running one, number `slice_at`, first.
    """

    tenant_id: str
    period_start: int
    period_end: int
    limit: int
    unit: str = "pusd"
    settled: int = 0
    corrected: int = 0
    events: int = 0
    unpriced: int = 0
    rung: int = 0
    decision_id: str | None = None
    expires_at: int | None = None
    sequence: int = -1
    limit_until: int | None = None
    dirty: bool = False
    opened_at: int = 0
    burn_minute: int = 0
    burn: list[int] = []
    slice_at: int = 0
    slices: list[int] = []


def ledger_key(policy: Policy, budget: Budget, scope: str, period: Period) -> LedgerKey:
    """The ledger that usage of a scope in `period` is charged to."""
    return LedgerKey(policy.policy_id, budget.budget_id, scope, period.period_id)


def charged_period(budget: Budget, started_at: int) -> Period:
    """The period of a request is the one it was admitted in.

    Rolling periods and those of tasks have one ledger each; theirs begins at `started_at`.
    """
    if budget.period in PERIOD_KINDS:
        return period_of(cast("PeriodKind", budget.period), budget.time_zone, started_at)
    return Period(budget.period, budget.period, started_at, started_at + TASK_US)


def open_ledger(budget: Budget, tenant_id: str, scope: str, period: Period, time: int) -> Ledger:
    """A ledger without usage, opened at broker time `time` (µs)."""
    ledger = Ledger(tenant_id, period.start, period.end, 0, budget.ledger_unit, opened_at=time)
    set_limit(ledger, budget, scope, time)
    if budget.rolling_us is not None:
        _move_to(ledger, budget.rolling_us, time // slice_us(budget))
    return ledger


def set_limit(ledger: Ledger, budget: Budget, scope: str, time: int) -> None:
    """Let the limit be what the policy says at `time` (µs)."""
    ledger.limit = budget.limit_for(scope, time)
    ledger.limit_until = budget.limit_until(scope, time)


def slice_us(budget: Budget) -> int:
    """Length of one slice of a rolling period, µs."""
    return (budget.rolling_us or 0) // SLICES


def check(ledger: Ledger, amount: int, *, correction: bool) -> None:
    """Raise OverflowError where `charge` could not add the amount."""
    checked_sum(ledger.settled, amount)
    if correction:
        checked_sum(ledger.corrected, amount)
    if ledger.slices and amount:
        checked_sum(max(ledger.slices, key=abs), abs(amount))


def largest(ledger: Ledger) -> int:
    """How far any of the ledger's sums is from 0."""
    sums = max(abs(ledger.settled), abs(ledger.corrected))
    return max(sums, *map(abs, ledger.slices)) if ledger.slices else sums


def burn_by(ledger: Ledger, amount: int, time: int) -> None:
    """Count what broker time `time` (µs) brought in the look-back windows."""
    ledger.burn_minute = burn.add(ledger.burn, ledger.burn_minute, burn.minute_of(time), amount)


def charge(ledger: Ledger, budget: Budget, amount: int, started_at: int, time: int) -> int:
    """Add an amount that broker time `time` brought (µs); what of it the sum holds.

    What was admitted before a rolling period has left it already.
    """
    burn_by(ledger, amount, time)
    if budget.rolling_us is None:
        ledger.settled = checked_sum(ledger.settled, amount)
        return amount
    pass_slices(ledger, budget, time)
    back = max(0, ledger.slice_at - started_at // slice_us(budget))
    if back > SLICES:
        return 0
    ledger.slices[back] += amount
    ledger.settled = checked_sum(ledger.settled, amount)
    return amount


def count(
    ledger: Ledger, amount: int, *, priced: bool, correction: bool, gives_price: bool
) -> None:
    """Count the event behind a charge; one without a price is counted, never guessed.

    `gives_price`: a correction prices an event that had no price.
    """
    if correction:
        ledger.corrected += amount
        ledger.unpriced -= gives_price
    else:
        ledger.events += 1
        ledger.unpriced += not priced


def count_many(ledger: Ledger, *, corrected: int, events: int, unpriced: int) -> None:
    """Count the events behind charges that were added up before."""
    ledger.corrected += corrected
    ledger.events += events
    ledger.unpriced += unpriced


def pass_slices(ledger: Ledger, budget: Budget, time: int) -> bool:
    """Let usage leave a rolling period whose slices are over; whether the sum changed."""
    if budget.rolling_us is None:
        return False
    now = time // slice_us(budget)
    before = ledger.settled
    if now > ledger.slice_at:
        _move_to(ledger, budget.rolling_us, now)
    return ledger.settled != before


def _move_to(ledger: Ledger, rolling_us: int, now: int) -> None:
    steps = min(now - ledger.slice_at, SLICES + 1)
    kept = ledger.slices[: SLICES + 1 - steps]
    ledger.slices = [0] * (SLICES + 1 - len(kept)) + kept
    ledger.slice_at = now
    ledger.settled = clamped(sum(ledger.slices))
    ledger.period_start = now * (rolling_us // SLICES) - rolling_us
    ledger.period_end = (now + 1) * (rolling_us // SLICES)


def next_due(ledger: Ledger) -> int | None:
    """Broker time (µs) at which a decision, a raise or a slice ends; None = none of them does."""
    due = ledger.expires_at
    if ledger.limit_until is not None:
        due = ledger.limit_until if due is None else min(due, ledger.limit_until)
    if ledger.slices and any(ledger.slices):
        due = ledger.period_end if due is None else min(due, ledger.period_end)
    return due


def ends_at(ledger: Ledger, budget: Budget) -> int:
    """When what was used by now counts no longer, µs UTC."""
    return ledger.period_end + (budget.rolling_us or 0)


def is_current(ledger: Ledger, time: int) -> bool:
    """Whether broker time `time` (µs) is in the ledger's period, so that its rung counts."""
    return ledger.period_start <= time < ledger.period_end


def rung_of(budget: Budget, ledger: Ledger) -> int:
    """How many of the budget's rules, ordered by threshold, the usage has reached."""
    return rung_at(budget, ledger, ledger.settled)


def rung_at(budget: Budget, ledger: Ledger, settled: int) -> int:
    """How many rules a usage of `settled` reaches."""
    return bisect_right(budget.thresholds(ledger.limit), settled)


def resize(ledger: Ledger, old_slice_us: int, budget: Budget, time: int) -> None:
    """Sort usage into the slices of a rolling period whose length has changed."""
    begins = [((ledger.slice_at - back) * old_slice_us, amount)
              for back, amount in enumerate(ledger.slices)]  # fmt: skip
    ledger.slices, ledger.slice_at = [], 0
    _move_to(ledger, budget.rolling_us or 0, time // slice_us(budget))
    for begin, amount in begins:
        back = max(0, ledger.slice_at - begin // slice_us(budget))
        if back <= SLICES:
            ledger.slices[back] += amount
    ledger.settled = clamped(sum(ledger.slices))
