"""Many events and one budget: which ledgers they count in, and what they add to each.

The functions for one event (`amounts`, `budgets.charged_period`) say the same more slowly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sluice.compiled import compiled
from sluice.enforcement import budgets
from sluice.enforcement.amounts import TOOL_TYPES, column_of, scope_text_of
from sluice.enforcement.policy import Budget
from sluice.metering.columnar.usage import Usage, grouped
from sluice.periods import PERIOD_KINDS, Period
from sluice.wire.column_types import Bools, Ints
from sluice.wire.outcomes import NEVER_RAN

_SUMMED = {
    "tokens": ("input_tokens", "output_tokens"), "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",), "gpu_us": ("gpu_us",), "kv_byte_ms": ("kv_byte_ms",),
}  # fmt: skip


class Counted(NamedTuple):
    """Events that count in a budget: their `rows`, and the ledger `of` each, in order of `first`.

    A ledger has a first row, a scope (as BudgetRow.scope) and a period.
    """

    rows: Ints
    of: Ints
    first: list[int]
    scopes: list[str]
    periods: list[Period]


class Sums(NamedTuple):
    """What events add to a ledger; `low` and `high` bound the sum on its way, 0 included."""

    total: int
    low: int
    high: int
    corrected: int
    events: int
    unpriced: int


class Facts(NamedTuple):
    """What of each event every budget looks at; `gives_price`: a correction prices its original."""

    cost_pusd: Ints
    priced: Bools
    correction: Bools
    gives_price: Bools

    def take(self, rows: Ints) -> Facts:
        """The facts of some events."""
        return Facts(
            self.cost_pusd[rows], self.priced[rows], self.correction[rows], self.gives_price[rows]
        )


def facts_of(usage: Usage, cost_pusd: Ints, priced: Bools) -> Facts:
    """What of each event every budget looks at."""
    correction = usage.coded("event_type").where("correction")
    gives_price = correction & priced & ~usage.number("original_cost_pusd").known
    return Facts(np.where(priced, cost_pusd, 0), priced, correction, gives_price)


def amounts(unit: str, usage: Usage, cost_pusd: Ints) -> Ints:
    """What each event adds to a ledger, in the ledger's unit, as `amounts.amount`."""
    if unit == "pusd":
        return cost_pusd
    if unit in _SUMMED:
        columns = [usage.number(name).value for name in _SUMMED[unit]]
        return columns[0] if len(columns) == 1 else columns[0] + columns[1]
    if unit == "concurrency":
        return np.zeros(usage.rows, dtype=np.int64)
    ran = ~usage.coded("outcome").where(*NEVER_RAN)
    if unit == "tool_calls":
        return (ran & usage.coded("event_type").where(*TOOL_TYPES)).astype(np.int64)
    ran &= usage.requests()
    if unit == "steps":
        again = usage.text("attempt_kind").length >= 0
        ran &= ~again & (usage.number("attempt").value <= 1)
    return ran.astype(np.int64)


def counted(budget: Budget, usage: Usage) -> Counted | None:
    """The ledgers of a budget that events count in; None where none of them does."""
    chosen, keys = _chosen(budget, usage)
    rows = np.arange(usage.rows) if chosen is None else np.flatnonzero(chosen)
    if not len(rows):
        return None
    started = usage.number("started_at").value[rows]
    number, periods = _periods(budget, started)
    first, of = grouped(*(key[rows] for key in keys), number)
    at = rows[first].tolist()
    columns = [_texts_at(usage, column_of(field), rows[first]) for field in budget.scope]
    scopes = [scope_text_of(budget.scope, values) for values in zip(*columns, strict=True)]
    if budget.period in PERIOD_KINDS:
        found = [periods[n] for n in number[first].tolist()]
    else:
        found = [budgets.charged_period(budget, begin) for begin in started[first].tolist()]
    return Counted(rows, of, at, scopes or [""] * len(at), found)


def _chosen(budget: Budget, usage: Usage) -> tuple[Bools | None, list[Ints]]:
    """Events that match and have every field of the scope (None: all), and codes of its fields."""
    masks, keys = [], []
    for field, wanted in budget.where.items():
        masks.append(usage.coded(column_of(field)).where(wanted))
    for field in budget.scope:
        coded = usage.coded(column_of(field))
        keys.append(coded.codes)
        if not all(coded.values):
            masks.append(~coded.where(None, ""))
    if not masks:
        return None, keys
    chosen: Bools = np.logical_and.reduce(masks)
    return chosen, keys


def _texts_at(usage: Usage, column: str, rows: Ints) -> list[str]:
    coded = usage.coded(column)
    return [coded.values[code] or "" for code in coded.codes[rows].tolist()]


def _periods(budget: Budget, started: Ints) -> tuple[Ints, list[Period]]:
    """The number of each event's period, and the periods; none where there is no calendar."""
    number = np.zeros(len(started), dtype=np.int64)
    if budget.period not in PERIOD_KINDS:
        return number, []
    periods = [budgets.charged_period(budget, int(started[0]))]
    left = (started < periods[0].start) | (started >= periods[0].end)
    while left.any():
        period = budgets.charged_period(budget, int(started[int(left.argmax())]))
        number[left & (started >= period.start) & (started < period.end)] = len(periods)
        left &= (started < period.start) | (started >= period.end)
        periods.append(period)
    return number, periods


def sums(of: Ints, ledgers: int, amount: Ints, facts: Facts) -> list[Sums]:
    """Sums of events, in their order, for each ledger."""
    whole = np.zeros((6, ledgers), dtype=np.int64)
    _add(whole, of, amount, facts.priced, facts.correction, facts.gives_price)
    return list(map(Sums._make, whole.T.tolist()))


@compiled
def _add(
    whole: Ints, of: Ints, amount: Ints, priced: Bools, correction: Bools, gives_price: Bools
) -> None:
    for i in range(len(of)):
        ledger = of[i]
        total = whole[0, ledger] + amount[i]
        whole[0, ledger] = total
        whole[1, ledger] = min(whole[1, ledger], total)
        whole[2, ledger] = max(whole[2, ledger], total)
        if correction[i]:
            whole[3, ledger] += amount[i]
            whole[5, ledger] -= gives_price[i]
        else:
            whole[4, ledger] += 1
            whole[5, ledger] += not priced[i]


@compiled
def totals(of: Ints, groups: int, amount: Ints) -> Ints:
    """The sum of each group."""
    whole = np.zeros(groups, dtype=np.int64)
    for i in range(len(of)):
        whole[of[i]] += amount[i]
    return whole
