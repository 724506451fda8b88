"""One look at the scopes of a partition: which have to be looked at, and what their signals say."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sluice.enforcement import ladder
from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_ladder import Section
from sluice.enforcement.rings import Scope
from sluice.enforcement.signals.signal import Signal
from sluice.enforcement.watch_signals import (
    Facts,
    Filter,
    Spent,
    place_signal,
    pool_filter,
    pool_signal,
    task_signal,
    tenant_signal,
)
from sluice.enforcement.watch_tables import TOOL, TTFT, Place, Tables
from sluice.wire.column_types import Ints

TENANT, TASK = ("tenant_id",), ("task_id", "tenant_id")
POOL, PLACE = ("pool", "tenant_id"), ("pool", "region")

Signals = list[tuple[str, Signal | None]]


class Watch:
    """One section of a policy for scopes of one kind."""

    def __init__(self, policy: Policy, section: Section, fields: tuple[str, ...]) -> None:
        self.policy, self.section, self.fields = policy, section, fields
        self.group = (policy.policy_id, section.name, fields)
        self.rules = [rule for rule in section.rules if rule.kind.scope == fields]
        self.steps = ladder.steps_of(section, fields)
        self.pace = ladder.pace_of(section)
        self.filters = [Filter(rule) for rule in self.rules] if fields == TENANT else []


class Look(NamedTuple):
    """A look at `time` (µs) at what was active since the one before, or since the last sweep."""

    tables: Tables
    facts: Facts
    time: int
    since: int
    sweep: bool

    def signals(self, watch: Watch, standing: Collection[Scope]) -> Iterator[tuple[Scope, Signals]]:
        """Signals by rule of every scope that could move; `standing` are those that do not rest."""
        if watch.fields == TENANT:
            return self._tenants(watch, standing)
        if watch.fields == TASK:
            return self._tasks(watch, standing)
        if watch.fields == POOL:
            return self._pools(watch, standing)
        return self._places(watch, standing)

    def _tenants(
        self, watch: Watch, standing: Collection[Scope]
    ) -> Iterator[tuple[Scope, Signals]]:
        rings = self.tables.tenants
        active = rings.active(self.since)
        totals, levels = rings.totals(active, self.time), self.tables.levels(active)
        may = np.zeros(len(active), dtype=np.bool_)
        for each in watch.filters:
            may |= each.reachable(totals, levels, active, self.time, sweep=self.sweep)
        for scope in sorted({*standing, *(rings.scopes[row] for row in active[may].tolist())}):
            yield scope, self._tenant(watch, scope, forecast=self.sweep or scope in standing)

    def _tenant(self, watch: Watch, scope: Scope, *, forecast: bool) -> Signals:
        """Forecasts come at sweeps and where a scope stands, not where a filter let it through."""
        rings, row = self.tables.tenants, self.tables.tenants.rows.get(scope)
        if row is None:
            return []
        rows = np.array([row], dtype=np.int64)
        seen_us = self.time - int(rings.first_at[row])
        spent = Spent(rings.totals(rows, self.time)[0], self.tables.levels(rows)[0], seen_us)
        found: Signals = []
        for each in watch.filters:
            rule, term = each.rule, None
            if rule.signal == "exhaustion" and not forecast:
                continue
            if rule.budget_id is not None:
                term = self.facts.term(watch.policy.policy_id, rule.budget_id, scope[0])
                each.learn(row, term)
            found.append((rule.rule_id, tenant_signal(rule, spent, term, self.time)))
        return found

    def _tasks(self, watch: Watch, standing: Collection[Scope]) -> Iterator[tuple[Scope, Signals]]:
        touched = {(task_id, tenant_id) for tenant_id, task_id in self.facts.tasks(self.since)}
        for scope in sorted(touched.union(standing)):
            task = self.facts.task(scope[1], scope[0])
            yield (
                scope,
                [
                    (rule.rule_id, task_signal(rule, task))
                    for rule in watch.rules
                    if task is not None
                ],
            )

    def _pools(self, watch: Watch, standing: Collection[Scope]) -> Iterator[tuple[Scope, Signals]]:
        rings = self.tables.pools
        active = [rings.scopes[row] for row in rings.active(self.since).tolist()]
        scopes = sorted({*(scope for scope in active if len(scope) == 2), *standing})
        own, whole = self._use_of(scopes), self._use_of([scope[:1] for scope in scopes])
        held = {scope: place for place, scope in enumerate(scopes)}
        may = pool_filter(watch.rules, own, whole)
        for scope in sorted({*standing, *(scopes[place] for place in np.flatnonzero(may))}):
            place = held[scope]
            yield (
                scope,
                [(r.rule_id, pool_signal(r, own[place], whole[place])) for r in watch.rules],
            )

    def _use_of(self, scopes: Sequence[Scope]) -> Ints:
        """Sums of pools, or of tenants in pools; of nothing where there is no row any more."""
        rings = self.tables.pools
        rows = np.array([rings.rows.get(scope, -1) for scope in scopes], dtype=np.int64)
        return rings.totals(rows, self.time)

    def _places(self, watch: Watch, standing: Collection[Scope]) -> Iterator[tuple[Scope, Signals]]:
        places = self.tables.places
        known = {(place.pool, place.region) for place in places} if self.sweep else set()
        for pool, region in sorted(known.union(standing)):
            held = [Place(what, pool, region) for what in (TTFT, TOOL)]
            spreads = [self.tables.turned(place, self.time) for place in held if place in places]
            yield (pool, region), [(r.rule_id, place_signal(r, spreads)) for r in watch.rules]
