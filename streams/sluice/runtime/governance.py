"""Budgets of one partition: ledgers charged, rungs judged, decisions published and ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, cast

from sluice.enforcement import budgets
from sluice.enforcement.amounts import amount, scope_of
from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.enforcement.decisions import Cause, control_key, decide
from sluice.enforcement.policy import Budget, Policy
from sluice.enforcement.rules_said import limits_until, rule_key, rule_record
from sluice.periods import Period
from sluice.runtime.agenda import Agenda
from sluice.runtime.outputs import Outbox, Record
from sluice.runtime.rows import budget_record
from sluice.runtime.state import State
from sluice.wire.codec import encode
from sluice.wire.scopes import scope_fields


class ReferenceStore(Protocol):
    """Where published policies and price books are looked up by (kind, id, version)."""

    def get(self, name: tuple[str, str, str]) -> Any:
        """The version, or None while it has not arrived."""

    def is_faulty(self, name: tuple[str, str, str]) -> bool:
        """Whether it arrived and cannot be read, or was never published."""


class Charge(NamedTuple):
    """A ledger that an event is charged to, with the rules that judge it."""

    key: LedgerKey
    ledger: Ledger
    budget: Budget
    policy: Policy


class Governance:
    """Judges what a partition's tenants have used.

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
        self._agenda = Agenda()
        # Ledgers with a standing decision, by what their control key names.
        self._standing: dict[tuple[str, str, str], set[LedgerKey]] = defaultdict(set)
        self._filled = False

    # ---- usage

    def ledgers_due(self, event: dict[str, Any]) -> list[Charge]:
        """Ledgers that an event is charged to: one per budget in force that it counts in."""
        if event["event_type"] == "admission":
            return []
        due = []
        for policy in self.policies():
            for budget in policy.budgets:
                scope = scope_of(budget, event)
                if scope is not None:
                    due.append(self.charged(policy, budget, scope, event))
        return due

    def charged(self, policy: Policy, budget: Budget, scope: str, event: dict[str, Any]) -> Charge:
        """The ledger of an event in one budget, opened where there is none."""
        period = budgets.charged_period(budget, event["started_at"])
        key = budgets.ledger_key(policy, budget, scope, period)
        ledger = self._state.ledgers.get(key)
        if ledger is None:
            time, tenant_id = self._state.header.time, event["tenant_id"]
            ledger = budgets.open_ledger(budget, tenant_id, scope, period, time)
        return Charge(key, ledger, budget, policy)

    def check(self, event: dict[str, Any], price: int | None, charge: Charge) -> None:
        """Raise OverflowError where `settle` could not add the event."""
        used = amount(charge.ledger.unit, event, price)
        budgets.check(charge.ledger, used, correction=event["event_type"] == "correction")

    def settle(
        self, record: Record, event: dict[str, Any], price: int | None, charge: Charge
    ) -> None:
        """Charge an event and decide where it takes the usage over a threshold."""
        key, ledger, budget, _ = charge
        self._state.ledgers[key] = ledger
        correction = event["event_type"] == "correction"
        used = amount(ledger.unit, event, price)
        gives_price = correction and price is not None and event["original_cost_pusd"] is None
        budgets.charge(ledger, budget, used, event["started_at"], self._state.header.time)
        budgets.count(ledger, used, priced=price is not None, correction=correction,
                      gives_price=gives_price)  # fmt: skip
        self.changed(key, ledger)
        self.judge(charge, record.offset)

    def changed(self, key: LedgerKey, ledger: Ledger) -> None:
        """Note that a ledger is to be stored, published and looked at again when it is due."""
        ledger.dirty = True
        self._state.touch_ledger(key)
        self._agenda.enter(key, budgets.next_due(ledger))

    def judge(self, charge: Charge, offset: int, *, anew: bool = False, row: bool = True) -> None:
        """Publish a decision where the ledger's rung moved, or `anew` where one stands.

        `row`: the row follows at once, so that decision and row are seen together.
        """
        key, ledger, budget, policy = charge
        time = self._state.header.time
        if not ledger.period_start <= time < ledger.period_end:
            return
        rung = budgets.rung_of(budget, ledger)
        if rung == ledger.rung and not (anew and rung):
            return
        ledger.rung = rung
        decision = decide(policy, budget, key, ledger, self._cause(offset))
        ledger.sequence = decision["sequence"]
        self._stand(key, ledger, decision["decision_id"], decision["expires_at"])
        self._state.count("decisions")
        self._outbox.control(control_key(policy, key), encode("Decision", decision))
        if row:
            self.publish(key, offset + 1)

    def _cause(self, offset: int) -> Cause:
        return Cause(self._outbox.number, offset, self._state.header.time, self._epoch)

    def _stand(
        self, key: LedgerKey, ledger: Ledger, decision_id: str | None, expires_at: int | None
    ) -> None:
        ledger.decision_id, ledger.expires_at = decision_id, expires_at
        standing = self._standing[key[:3]]
        standing.discard(key) if decision_id is None else standing.add(key)
        if not standing:
            del self._standing[key[:3]]
        self.changed(key, ledger)

    # ---- time

    def pass_time(self, record: Record) -> None:
        """End what is over at the broker time that `record` brings: decisions, raises, slices."""
        self._fill()
        for identity in self._agenda.take(self._state.header.time):
            if len(identity) == 1:
                self._say_rules(identity[0], record.offset)
            else:
                self._ledger_due(cast("LedgerKey", identity), record.offset)

    def _ledger_due(self, key: LedgerKey, offset: int) -> None:
        ledger, time = self._state.ledgers.get(key), self._state.header.time
        if ledger is None:
            return
        policy, budget = self.policy(key.policy_id), self.budget(key)
        moved = False
        if policy is not None and budget is not None:
            moved = self._moved(key, ledger, budget)
            stays = _outlasts_itself(ledger, budget, time)
            if moved or stays:
                self.changed(key, ledger)
                self.judge(Charge(key, ledger, budget, policy), offset, anew=stays, row=False)
        if ledger.expires_at is not None and ledger.expires_at <= time:
            self._withdraw(key)
        self._agenda.enter(key, _later(budgets.next_due(ledger), time))

    def _moved(self, key: LedgerKey, ledger: Ledger, budget: Budget) -> bool:
        """Let raises and slices end; whether limit or usage changed."""
        time, before = self._state.header.time, ledger.limit
        if ledger.limit_until is not None and ledger.limit_until <= time:
            budgets.set_limit(ledger, budget, key.scope, time)
        return budgets.pass_slices(ledger, budget, time) or ledger.limit != before

    def _withdraw(self, key: LedgerKey) -> None:
        """End a ledger's standing decision with a tombstone, unless a newer one replaced it."""
        self._stand(key, self._state.ledgers[key], None, None)
        policy = self.policy(key.policy_id)
        if policy is not None and key[:3] not in self._standing:
            self._outbox.control(control_key(policy, key), None)

    def next_due(self) -> int | None:
        """Broker time (µs) at which something ends even if no record comes."""
        self._fill()
        return self._agenda.next_due()

    def _fill(self) -> None:
        """Look once at everything that the state held when this owner began."""
        if self._filled:
            return
        self._filled = True
        for key, ledger in self._state.ledgers.items():
            self._agenda.enter(key, budgets.next_due(ledger))
            if ledger.decision_id is not None:
                self._standing[key[:3]].add(key)
        for policy in self.policies():
            due = limits_until(policy, self._state.header.time)
            self._agenda.enter((policy.policy_id,), due)

    def publish(self, key: LedgerKey, position: int) -> None:
        """Publish a ledger as a row that covers the input below `position`."""
        ledger = self._state.ledgers[key]
        ledger.dirty = False
        self._state.touch_ledger(key)
        row = budget_record(key, ledger, self.budget(key), self._state.header.time)
        row["version"] = self._version_base + position
        self._outbox.row(self._outbox.topics.budgets, ledger.tenant_id, encode("BudgetRow", row))

    # ---- policies

    def switch_policy(self, record: Record, policy_id: str, version: str) -> None:
        """Put a version in force, or with an empty one take the policy out; rejudge its ledgers."""
        self._fill()
        before = self.policy(policy_id)
        header = self._state.header
        keys = sorted(key for key in self._state.ledgers if key.policy_id == policy_id)
        if version:
            header.policies[policy_id] = version
        after = self.policy(policy_id) if version else None
        self._drop_rules(before, after)
        if after is not None:
            self._say_rules(policy_id, record.offset)
        for key in keys:
            self._rejudge(key, before, after, record.offset)
        if not version:
            header.policies.pop(policy_id, None)

    def _say_rules(self, policy_id: str, offset: int) -> None:
        """Tell admission points the budgets of a policy; again when a raise of it ends."""
        policy = self.policy(policy_id)
        if policy is None:
            return
        number, cause = self._outbox.number, self._cause(offset)
        for budget in policy.budgets:
            value = encode("BudgetRule", rule_record(policy, budget, cause))
            self._outbox.control(rule_key(policy_id, budget.budget_id, number), value)
        self._agenda.enter((policy_id,), limits_until(policy, cause.time))

    def _drop_rules(self, before: Policy | None, after: Policy | None) -> None:
        kept = after.by_id if after else {}
        for budget_id in sorted(before.by_id if before else ()):
            if before is not None and budget_id not in kept:
                key = rule_key(before.policy_id, budget_id, self._outbox.number)
                self._outbox.control(key, None)

    def _rejudge(
        self, key: LedgerKey, before: Policy | None, after: Policy | None, offset: int
    ) -> None:
        ledger = self._state.ledgers[key]
        budget = _budget_of(after, key, ledger)
        old = _budget_of(before, key, ledger)
        moved = before is not None and after is not None and before.mode != after.mode
        other = budget is not None and ledger.unit != budget.ledger_unit
        if ledger.decision_id is not None and before and (budget is None or moved or other):
            self._outbox.control(control_key(before, key), None)
            ledger.rung = 0
            self._stand(key, ledger, None, None)
        if after is not None and budget is not None:
            ledger = self._refit(key, ledger, old, budget)
            self.changed(key, ledger)
            self.judge(Charge(key, ledger, budget, after), offset, anew=True)
        self._state.touch_ledger(key)

    def _refit(self, key: LedgerKey, ledger: Ledger, old: Budget | None, budget: Budget) -> Ledger:
        """The ledger under a new version of its budget; another unit begins at nothing."""
        time = self._state.header.time
        if ledger.unit != budget.ledger_unit:
            period = Period(budget.period, key.period_id, ledger.period_start, ledger.period_end)
            sequence, tenant_id = ledger.sequence, ledger.tenant_id
            ledger = budgets.open_ledger(budget, tenant_id, key.scope, period, time)
            ledger.sequence = sequence
            self._state.ledgers[key] = ledger
        elif old is not None and old.rolling_us != budget.rolling_us:
            budgets.resize(ledger, budgets.slice_us(old), budget, time)
        budgets.set_limit(ledger, budget, key.scope, time)
        return ledger

    def policies(self) -> list[Policy]:
        """Policies in force, in the order of their ids."""
        names: Iterable[str] = sorted(self._state.header.policies)
        return [policy for policy in map(self.policy, names) if policy is not None]

    def policy(self, policy_id: str) -> Policy | None:
        """The version of a policy that is in force."""
        version = self._state.header.policies.get(policy_id)
        if version is None:
            return None
        policy: Policy | None = self._references.get(("policy", policy_id, version))
        return policy

    def budget(self, key: LedgerKey) -> Budget | None:
        """The budget in force that a ledger belongs to."""
        return _budget_of(self.policy(key.policy_id), key, self._state.ledgers[key])


def _budget_of(policy: Policy | None, key: LedgerKey, ledger: Ledger) -> Budget | None:
    """The budget of a ledger, unless it has other scopes or periods by now."""
    budget = policy.by_id.get(key.budget_id) if policy else None
    if budget is None or scope_fields(key.scope).keys() != set(budget.scope):
        return None
    period = budgets.charged_period(budget, ledger.period_start)
    return budget if period.period_id == key.period_id else None


def _outlasts_itself(ledger: Ledger, budget: Budget, time: int) -> bool:
    """Whether the decision of a rolling period has to be said again, in its last slice."""
    if budget.rolling_us is None or ledger.expires_at is None:
        return False
    return ledger.rung > 0 and ledger.expires_at - budgets.slice_us(budget) <= time


def _later(due: int | None, time: int) -> int | None:
    """A time that is over without anything to end is not looked at again."""
    return due if due is None or due > time else None
