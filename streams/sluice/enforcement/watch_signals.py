"""Signals of the scopes that watchers remember, and which scopes can be passed over.

Passing over is exact: a scope is left out only where no rule can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from sluice.enforcement.budgets import Ledger, LedgerKey, charged_period, ledger_key
from sluice.enforcement.policy import Budget, Policy
from sluice.enforcement.policy_ladder import SPANS, SignalRule
from sluice.enforcement.signals import burn, drift, tasks
from sluice.enforcement.signals.burn import Forecast, Term
from sluice.enforcement.signals.jitter import Spread, jitter
from sluice.enforcement.signals.neighbour import Patience, PoolUse, noisy_neighbour
from sluice.enforcement.signals.signal import PPM, Signal
from sluice.enforcement.watch_tables import SPEND, USE_SPANS
from sluice.metering.tasks import TaskLook
from sluice.wire.column_types import Bools, Ints
from sluice.wire.scopes import scope_text

LEAST_EVENTS = 10
_OTHERS_WAIT_MS, _OVER_USUAL_PPM = 100, 2 * PPM
_WINDOW = {span.name: index for index, span in enumerate(SPANS)}
_MEASURE = {name: index for index, name in enumerate(SPEND)}
# What a budget of a unit counts; budgets of other units have no burn here.
_SPENT_OF_UNIT = {"pusd": "cost_pusd", "tokens": "tokens"}
# Room for the rounding of floating point: a filter may only let too much through.
_SLACK = 0.999


class Facts(Protocol):
    """What the ledgers and tasks of a partition say."""

    def term(self, policy_id: str, budget_id: str, tenant_id: str) -> tuple[str, Term] | None:
        """Unit and term of a tenant's budget now, None where it has no ledger."""

    def task(self, tenant_id: str, task_id: str) -> TaskLook | None:
        """A task that is not over."""

    def tasks(self, since: int) -> Iterable[tuple[str, str]]:
        """(tenant, task) of the tasks with an event at `since` (µs) or later."""


def term_of(
    ledgers: Mapping[LedgerKey, Ledger], policy: Policy, budget: Budget, tenant_id: str, time: int
) -> tuple[str, Term] | None:
    """Unit and term of a tenant's budget at `time` (µs), None where nothing was charged to it.

    A rolling period is the one that ends now.
    """
    scope = scope_text([("tenant_id", tenant_id)])
    key = ledger_key(policy, budget, scope, charged_period(budget, time))
    ledger = ledgers.get(key)
    if ledger is None:
        return None
    start, end = ledger.period_start, ledger.period_end
    if budget.rolling_us is not None:
        start, end = time - budget.rolling_us, time
    return ledger.unit, Term(ledger.limit, ledger.settled, start, end)


class Spent:
    """Sums of one tenant at one time: by window and measure, and for how long it was seen."""

    def __init__(self, totals: Ints, level: Ints, seen_us: int) -> None:
        self._totals = totals
        self.level = level
        self.seen_us = seen_us

    def of(self, measure: str, rule: SignalRule) -> tuple[int, int]:
        """Sums over a rule's short and long window."""
        short, long = (_WINDOW[span.name] for span in rule.pair)
        column = _MEASURE[measure]
        return int(self._totals[short, column]), int(self._totals[long, column])


def tenant_signal(
    rule: SignalRule, spent: Spent, term: tuple[str, Term] | None, time: int
) -> Signal | None:
    """A signal about a tenant; None where too little was seen to say anything."""
    least = rule.min_events or LEAST_EVENTS
    if rule.signal == "drift":
        return drift.drift(spent.level, rule.threshold)
    short, long = spent.of("requests", rule)
    if rule.signal == "retry_share":
        retries, _ = spent.of("retries", rule)
        if short < least:
            return None
        return tasks.retry_share(short, retries, rule.pair.short.name, rule.threshold)
    if long < least:
        return None
    if rule.signal == "slo_burn":
        bad, judged = spent.of("bad_pusd", rule), spent.of("judged_pusd", rule)
        target_ppm = int((rule.target or 0) * PPM)
        return burn.slo_burn(bad, judged, rule.pair, target_ppm, rule.threshold)
    return _budget_signal(rule, spent, term, time)


def _budget_signal(
    rule: SignalRule, spent: Spent, term: tuple[str, Term] | None, time: int
) -> Signal | None:
    if term is None or term[0] not in _SPENT_OF_UNIT:
        return None
    if rule.signal == "burn":
        amounts = spent.of(_SPENT_OF_UNIT[term[0]], rule)
        return burn.burn(amounts, rule.pair, term[1], rule.threshold)
    found = forecast_of(rule, spent, term, time)
    return None if found is None else burn.exhaustion(found, rule.pair, rule.threshold)


def forecast_of(
    rule: SignalRule, spent: Spent, term: tuple[str, Term] | None, time: int
) -> Forecast | None:
    """Where the budget of a rule is going, None where its unit is not counted here."""
    if term is None or term[0] not in _SPENT_OF_UNIT:
        return None
    amounts = spent.of(_SPENT_OF_UNIT[term[0]], rule)
    return burn.forecast(amounts, rule.pair, term[1], spent.seen_us, time)


_TASK_SIGNALS: Mapping[str, Callable[[TaskLook, int], Signal | None]] = {
    "loop": tasks.loop,
    "repetition": tasks.repetition,
    "task_cost": tasks.task_cost,
    "fan_out": tasks.fan_out,
    "depth": tasks.depth,
}


def task_signal(rule: SignalRule, task: TaskLook) -> Signal | None:
    """A signal about a task."""
    return _TASK_SIGNALS[rule.signal](task, rule.threshold)


def pool_signal(rule: SignalRule, own: Ints, whole: Ints) -> Signal:
    """A signal about a tenant in a pool; sums of both by window and measure of `USE`."""
    patience = Patience(
        (rule.others_wait_ms or _OTHERS_WAIT_MS) * 1000,
        int(rule.over_usual * PPM) if rule.over_usual else _OVER_USUAL_PPM,
        rule.min_events or LEAST_EVENTS,
    )
    now, usual = (PoolUse(*(int(amount) for amount in window)) for window in whole)
    mine = PoolUse(*(int(amount) for amount in own[0]))
    return noisy_neighbour(mine, now, usual, patience, USE_SPANS[0].name, rule.threshold)


def pool_filter(rules: Sequence[SignalRule], own: Ints, whole: Ints) -> Bools:
    """Which tenants in pools have a share of the load that could reach a rule."""
    mine, all_of_it = own[:, 0, 0], whole[:, 0, 0]
    least = min((rule.threshold for rule in rules), default=0) / PPM * _SLACK
    return np.asarray((mine > 0) & (mine >= least * all_of_it))


def place_signal(rule: SignalRule, spreads: Sequence[Spread]) -> Signal | None:
    """The larger jitter of what is measured at a place."""
    found = [jitter(spread, rule.threshold) for spread in spreads]
    return max((s for s in found if s is not None), key=lambda s: s.value, default=None)


class Filter:
    """Which tenants could reach one rule, for many at once.

    For burn it learns from each look how much a tenant would have to spend within the long window,
    until the period ends; a tenant of which nothing was learned is let through.
    """

    def __init__(self, rule: SignalRule) -> None:
        self.rule = rule
        self._needed = np.zeros(0, dtype=np.float64)
        self._until = np.zeros(0, dtype=np.int64)
        self._measure = np.zeros(0, dtype=np.int64)

    def reachable(self, totals: Ints, levels: Ints, rows: Ints, time: int, *, sweep: bool) -> Bools:
        """Rows (of totals, levels and `rows` alike) that have to be looked at.

        A forecast changes with the ledger and the clock: it is looked at only in a `sweep`.
        """
        rule = self.rule
        at, long = rule.threshold / PPM * _SLACK, _WINDOW[rule.pair.long.name]
        if rule.signal == "exhaustion":
            return np.full(len(rows), sweep)
        if rule.signal == "burn":
            return self._may_burn(totals[:, long], rows, time)
        if rule.signal == "drift":
            return drift.reached(levels, rule.threshold)
        if rule.signal == "retry_share":
            short = _WINDOW[rule.pair.short.name]
            requests, retries = (totals[:, short, _MEASURE[n]] for n in ("requests", "retries"))
            return np.asarray((retries >= at * requests) & (requests > 0))
        allowed = 1 - float(rule.target or 0)
        bad, judged = (totals[:, long, _MEASURE[n]] for n in ("bad_pusd", "judged_pusd"))
        return np.asarray((bad >= at * allowed * judged) & (bad > 0))

    def _may_burn(self, totals: Ints, rows: Ints, time: int) -> Bools:
        self._fit(int(rows.max(initial=-1)) + 1)
        spent = np.take_along_axis(totals, self._measure[rows][:, None], axis=1)[:, 0]
        unknown = self._until[rows] <= time
        return np.asarray(unknown | (spent >= self._needed[rows]))

    def learn(self, row: int, term: tuple[str, Term] | None) -> None:
        """Remember what a look at a tenant's budget said."""
        if self.rule.signal != "burn" or term is None or term[0] not in _SPENT_OF_UNIT:
            return
        self._fit(row + 1)
        found, width_us = term[1], self.rule.pair.long.width_us
        self._needed[row] = (
            self.rule.threshold / PPM * _SLACK * found.limit * width_us / found.period_us
        )
        self._until[row] = found.period_end
        self._measure[row] = _MEASURE[_SPENT_OF_UNIT[term[0]]]

    def forget(self, row: int) -> None:
        """Know nothing of a row any more."""
        if row < len(self._until):
            self._until[row] = 0

    def _fit(self, rows: int) -> None:
        more = rows - len(self._until)
        if more > 0:
            self._needed = np.concatenate([self._needed, np.zeros(more)])
            self._until = np.concatenate([self._until, np.zeros(more, dtype=np.int64)])
            self._measure = np.concatenate([self._measure, np.zeros(more, dtype=np.int64)])
