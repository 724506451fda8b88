"""Budgets of one partition: ledgers charged, rungs judged, decisions published and ended."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from sluice.enforcement import budgets
from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.enforcement.decisions import Cause, control_key, decide
from sluice.enforcement.policy import Budget, Policy
from sluice.metering.columnar.usage import Usage
from sluice.runtime.incoming import Run
from sluice.runtime.outputs import Outbox, Record
from sluice.runtime.rows import budget_record
from sluice.runtime.state import State
from sluice.wire.codec import encode
from sluice.wire.column_types import Bools, Ints


class ReferenceStore(Protocol):
    """Where published policies and price books are looked up by (kind, id, version)."""

    def get(self, name: tuple[str, str, str]) -> Any:
        """The version, or None while it has not arrived."""

    def is_faulty(self, name: tuple[str, str, str]) -> bool:
        """Whether it arrived and cannot be read, or was never published."""


# Far enough from 64 bits that no sum of a run leaves them.
_ROOM = 2.0**62


class Charged(NamedTuple):
    """Events that were added up, and what each of them cost (0 where it has no price)."""

    run: Run
    cost_pusd: Ints
    priced: Bools


class Charge(NamedTuple):
    """A ledger that an event is charged to, with the rules that judge it."""

    key: LedgerKey
    ledger: Ledger
    budget: Budget
    policy: Policy


class Governance:
    """Judges what a partition's tenants have spent.

    `epoch` orders decisions across owners of the partition; `version_base` is the topic
    generation's share of row versions.
    """

    def __init__(
        self,
        state: State,
        outbox: Outbox,
        references: ReferenceStore,
        *,
        epoch: int,
        version_base: int,
    ) -> None:
        self._state = state
        self._outbox = outbox
        self._references = references
        self._epoch = epoch
        self._version_base = version_base

    def has_room(self, cost_pusd: Ints) -> bool:
        """Whether no ledger can leave 64 bits, whichever of these costs are charged."""
        most = max((abs(led.settled_pusd) for led in self._state.ledgers.values()), default=0)
        return most + float(np.abs(cost_pusd.astype(np.float64)).sum()) < _ROOM

    def check(self, run: Run, cost_pusd: Ints) -> None:
        """Raise OverflowError where a ledger cannot take the only event of a run."""
        event = run.event(0)
        correction = event["event_type"] == "correction"
        for charge in self.ledgers_due(event):
            budgets.check(charge.ledger, int(cost_pusd[0]), correction=correction)

    def charge(self, charged: Charged) -> None:
        """Charge the events of a run to their budgets, one after the other."""
        run, cost, priced = charged
        for row, record in enumerate(run.records):
            self._state.header.time = int(run.time[row])
            event = _charged_fields(run.usage, row)
            price = int(cost[row]) if priced[row] else None
            for charge in self.ledgers_due(event):
                self.settle(record, event, price, charge)

    def ledgers_due(self, event: dict[str, Any]) -> list[Charge]:
        """Ledgers that an event is charged to: one per budget of every policy in force."""
        if event["event_type"] == "admission":
            return []
        due = []
        for policy in self._policies():
            for budget in policy.budgets:
                period = budgets.charged_period(budget, event["started_at"])
                key = budgets.ledger_key(policy, budget, event["tenant_id"], period)
                ledger = self._state.ledgers.get(key)
                if ledger is None:
                    ledger = budgets.open_ledger(budget, event["tenant_id"], period)
                due.append(Charge(key, ledger, budget, policy))
        return due

    def settle(
        self, record: Record, event: dict[str, Any], price: int | None, charge: Charge
    ) -> None:
        """Charge an event's cost and decide where it takes the spend over a threshold."""
        self._state.ledgers[charge.key] = charge.ledger
        correction = event["event_type"] == "correction"
        gives_price = correction and price is not None and event["original_cost_pusd"] is None
        budgets.charge(charge.ledger, price, correction=correction, gives_price=gives_price)
        charge.ledger.dirty = True
        self._state.touch_ledger(charge.key)
        self._judge(charge, record)

    def _judge(self, charge: Charge, record: Record, *, anew: bool = False) -> None:
        """Publish a decision where the ledger's rung moved, or `anew` where one stands."""
        key, ledger, budget, policy = charge
        time = self._state.header.time
        if not ledger.period_start <= time < ledger.period_end:
            return
        rung = budgets.rung_of(budget, ledger)
        if rung == ledger.rung and not (anew and rung):
            return
        ledger.rung = rung
        cause = Cause(self._outbox.number, record.offset, time, self._epoch)
        decision = decide(policy, budget, key, ledger, cause)
        ledger.decision_id, ledger.expires_at = decision["decision_id"], decision["expires_at"]
        self._state.count("decisions")
        self._outbox.control(control_key(policy, key), encode("Decision", decision), time)
        self.publish(key, record.offset + 1)

    def _withdraw(self, key: LedgerKey) -> None:
        """End a ledger's standing decision with a tombstone, unless a newer one replaced it."""
        ledger = self._state.ledgers[key]
        ledger.decision_id = ledger.expires_at = None
        ledger.dirty = True
        self._state.touch_ledger(key)
        policy = self._policy(key.policy_id)
        if policy is not None and not self._stands_elsewhere(key):
            self._outbox.control(control_key(policy, key), None, self._state.header.time)

    def _stands_elsewhere(self, key: LedgerKey) -> bool:
        return any(
            other[:3] == key[:3] and ledger.decision_id is not None
            for other, ledger in self._state.ledgers.items()
        )

    def lift_expired(self, time: int) -> None:
        """End decisions whose time is over at broker time `time` (µs)."""
        ledgers = self._state.ledgers
        due = [k for k, l in ledgers.items() if l.expires_at is not None and l.expires_at <= time]
        for key in sorted(due):
            self._withdraw(key)

    def publish(self, key: LedgerKey, position: int) -> None:
        """Publish a ledger as a row that covers the input below `position`."""
        ledger = self._state.ledgers[key]
        ledger.dirty = False
        self._state.touch_ledger(key)
        row = budget_record(key, ledger, self._budget(key), self._state.header.time)
        row["version"] = self._version_base + position
        self._outbox.row(self._outbox.topics.budgets, key.tenant_id, encode("BudgetRow", row))

    def switch_policy(self, record: Record, policy_id: str, version: str) -> None:
        """Put a version in force, or with an empty one take the policy out; rejudge its ledgers."""
        before = self._policy(policy_id)
        header = self._state.header
        keys = sorted(key for key in self._state.ledgers if key.policy_id == policy_id)
        if version:
            header.policies[policy_id] = version
        after = self._policy(policy_id) if version else None
        for key in keys:
            self._rejudge(key, before, after, record)
        if not version:
            header.policies.pop(policy_id, None)

    def _rejudge(
        self, key: LedgerKey, before: Policy | None, after: Policy | None, record: Record
    ) -> None:
        ledger = self._state.ledgers[key]
        budget = _budget_of(after, key.budget_id)
        moved = before is not None and after is not None and before.mode != after.mode
        if ledger.decision_id is not None and before is not None and (budget is None or moved):
            self._outbox.control(control_key(before, key), None, self._state.header.time)
            ledger.decision_id = ledger.expires_at = None
            ledger.rung = 0
            ledger.dirty = True
        if after is not None and budget is not None:
            ledger.limit_pusd = budget.limit_for(key.tenant_id)
            ledger.dirty = True
            self._judge(Charge(key, ledger, budget, after), record, anew=True)
        self._state.touch_ledger(key)

    def _policies(self) -> list[Policy]:
        return [p for p in map(self._policy, sorted(self._state.header.policies)) if p is not None]

    def _policy(self, policy_id: str) -> Policy | None:
        version = self._state.header.policies.get(policy_id)
        if version is None:
            return None
        policy: Policy | None = self._references.get(("policy", policy_id, version))
        return policy

    def _budget(self, key: LedgerKey) -> Budget | None:
        return _budget_of(self._policy(key.policy_id), key.budget_id)


def _charged_fields(usage: Usage, row: int) -> dict[str, Any]:
    """What of an event its budgets look at."""
    original = usage.number("original_cost_pusd")
    return {
        "tenant_id": usage.text("tenant_id").one(row),
        "event_type": usage.text("event_type").one(row),
        "started_at": int(usage.number("started_at").value[row]),
        "original_cost_pusd": int(original.value[row]) if original.known[row] else None,
    }


def _budget_of(policy: Policy | None, budget_id: str) -> Budget | None:
    budgets_of = policy.budgets if policy else ()
    return next((b for b in budgets_of if b.budget_id == budget_id), None)
