"""Ladders and outcomes of one partition: usage and time in, decisions out.

Signals are looked at when time passes a border, before the record that brings it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from sluice.enforcement.decisions import Cause
from sluice.enforcement.ladder_decisions import Published, decisions
from sluice.enforcement.policy import Policy
from sluice.enforcement.signals.burn import Term
from sluice.enforcement.watch_run import run_of_usage
from sluice.enforcement.watch_signals import term_of
from sluice.metering.tasks import TaskKey, TaskLook
from sluice.runtime.governing_columns import Charged
from sluice.runtime.outputs import Outbox, Record
from sluice.runtime.state import State
from sluice.wire.codec import encode
from sluice.wire.column_types import Numbers

Policies = Callable[[], list[Policy]]


class KnownFacts:
    """What signals ask of ledgers and tasks of a partition."""

    def __init__(self, state: State, policies: Policies) -> None:
        self._state = state
        self._policies = policies

    def term(self, policy_id: str, budget_id: str, tenant_id: str) -> tuple[str, Term] | None:
        """Unit and term of a tenant's budget now, None where it has no ledger."""
        policy = next((p for p in self._policies() if p.policy_id == policy_id), None)
        budget = policy.by_id.get(budget_id) if policy else None
        if policy is None or budget is None:
            return None
        state = self._state
        return term_of(state.ledgers, policy, budget, tenant_id, state.header.time)

    def task(self, tenant_id: str, task_id: str) -> TaskLook | None:
        """A task that is not over."""
        return self._state.tasks.look(TaskKey(tenant_id, task_id))

    def tasks(self, since: int) -> Iterable[tuple[str, str]]:
        """(tenant, task) of the tasks with an event at `since` (µs) or later."""
        return self._state.tasks.seen_since(since)


class Watching:
    """Moves what signals ask for to the outbox, and counts what decisions did."""

    def __init__(self, state: State, outbox: Outbox, policies: Policies, *, epoch: int) -> None:
        self._state = state
        self._outbox = outbox
        self._policies = policies
        self._epoch = epoch
        self._used: dict[str, str] | None = None
        # Usage or policies that were not looked at yet: a look is due although nothing more comes.
        self._unseen = True
        state.watchers.facts = KnownFacts(state, policies)

    def observe(self, charged: Charged) -> None:
        """Take a run of usage, all within one second."""
        run = charged.run
        self._use()
        watched = run_of_usage(run.usage, run.time, Numbers(charged.cost_pusd, charged.priced))
        self._state.watchers.observe_run(watched)
        self._unseen = True
        outcomes = self._state.outcomes
        outcomes.judge(watched)
        for row in np.flatnonzero(run.usage.text("decision_id").length >= 0).tolist():
            outcomes.ran_under(run.event(row))

    def pass_time(self, record: Record) -> None:
        """Look at what is due at the broker time that `record` brings."""
        self._use()
        time = self._state.header.time
        cause = Cause(self._outbox.number, record.offset, time, self._epoch)
        self._unseen = self._unseen and time < self._state.watchers.next_look
        for change in self._state.watchers.at(time):
            self._publish(decisions(change.policy, change.moved, change.standing, cause))

    def switch(self, before: Policy | None, after: Policy | None) -> None:
        """A policy was switched: what stands on ladders that are gone ends."""
        self._unseen = True
        if before is not None:
            self._publish(self._state.watchers.switch(before, after))
        self._state.watchers.begin(self._state.header.time)

    def _publish(self, messages: Iterable[Published]) -> None:
        time, outcomes = self._state.header.time, self._state.outcomes
        for key, record, lifted in messages:
            if record is None:
                self._outbox.control(key, None, time)
                if lifted is not None:
                    outcomes.end(lifted, "lifted", time)
            else:
                self._state.count("decisions")
                self._outbox.control(key, encode("Decision", record), time)
                outcomes.begin(record, time)

    def next_due(self) -> int | None:
        """Broker time (µs) at which something is due if no record comes, or None."""
        self._use()
        watchers = self._state.watchers
        unseen = self._unseen and not watchers.idle
        dues = (watchers.next_look if unseen else None, watchers.next_due())
        return min((due for due in dues if due is not None), default=None)

    def _use(self) -> None:
        """Watch for the policies in force, once all of them are at hand."""
        wanted = self._state.header.policies
        if self._used == wanted:
            return
        policies = self._policies()
        self._state.watchers.use(policies)
        self._used = dict(wanted) if len(policies) == len(wanted) else None
