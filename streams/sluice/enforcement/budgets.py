"""Budget ledgers: what a scope has spent in a period, and which rung of the ladder it stands on.

A charge is located at its event: the crossing of a threshold belongs to the event whose cost takes
the sum over it, whatever chunk the event came in.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import msgspec

from sluice.enforcement.periods import Period, period_of
from sluice.enforcement.policy import Budget, Policy, Rule
from sluice.money import checked_sum


class LedgerKey(NamedTuple):
    """Identity of a ledger: one budget, one tenant, one calendar period."""

    policy_id: str
    budget_id: str
    tenant_id: str
    period_id: str


class Ledger(msgspec.Struct, array_like=True):
    """Spend of one scope in one period and the decision that stands because of it.

    `rung` counts the budget's rules that the spend has reached; `decision_id` is the standing
    decision (None: none), which ends at `expires_at`; `dirty` rows wait to be published.
    """

    period_start: int
    period_end: int
    limit_pusd: int
    settled_pusd: int = 0
    corrected_pusd: int = 0
    events: int = 0
    unpriced: int = 0
    rung: int = 0
    decision_id: str | None = None
    expires_at: int | None = None
    dirty: bool = False


def ledger_key(policy: Policy, budget: Budget, tenant_id: str, period: Period) -> LedgerKey:
    """The ledger that usage of `tenant_id` in `period` is charged to."""
    return LedgerKey(policy.policy_id, budget.budget_id, tenant_id, period.period_id)


def charged_period(budget: Budget, started_at: int) -> Period:
    """The period of a request is the one it was admitted in."""
    return period_of(budget.period, budget.time_zone, started_at)


def open_ledger(budget: Budget, tenant_id: str, period: Period) -> Ledger:
    """A ledger without spend."""
    return Ledger(period.start, period.end, budget.limit_for(tenant_id))


def check(ledger: Ledger, cost_pusd: int | None, *, correction: bool) -> None:
    """Raise OverflowError where `charge` could not add the cost."""
    checked_sum(ledger.settled_pusd, cost_pusd or 0)
    if correction:
        checked_sum(ledger.corrected_pusd, cost_pusd or 0)


def charge(
    ledger: Ledger, cost_pusd: int | None, *, correction: bool, gives_price: bool = False
) -> None:
    """Add the cost of one event; None (no price) is counted, never guessed.

    `gives_price`: a correction prices an event that had no price.
    """
    ledger.settled_pusd = checked_sum(ledger.settled_pusd, cost_pusd or 0)
    if correction:
        ledger.corrected_pusd += cost_pusd or 0
        ledger.unpriced -= gives_price
    else:
        ledger.events += 1
        ledger.unpriced += cost_pusd is None


def rung_of(budget: Budget, ledger: Ledger) -> int:
    """How many of the budget's rules, ordered by threshold, the spend has reached."""
    return sum(ledger.settled_pusd >= threshold_pusd(ledger, rule) for rule in budget.rules)


def threshold_pusd(ledger: Ledger, rule: Rule) -> int:
    """Spend at which `rule` takes effect, rounded up to a whole pico-dollar."""
    return _share(rule.at, ledger.limit_pusd)


@lru_cache(maxsize=4096)
def _share(at: Decimal, limit_pusd: int) -> int:
    """`at` of a limit, rounded up; asked for at every event, of few limits."""
    exact = Fraction(at) * limit_pusd
    return -(-exact.numerator // exact.denominator)
