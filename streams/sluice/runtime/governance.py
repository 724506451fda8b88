"""Budgets of one partition: ledgers charged, rungs judged, decisions published and ended."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

from sluice.enforcement import budgets
from sluice.enforcement.amounts import amount, scope_of
from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.enforcement.columnar import Counted
from sluice.enforcement.decisions import Cause, control_key, decide
from sluice.enforcement.leases import Lease, LeaseKey
from sluice.enforcement.policy import Budget, Policy
from sluice.enforcement.rules_said import limits_until, rule_key, rule_record
from sluice.periods import Period
from sluice.runtime.agenda import Agenda
from sluice.runtime.governing_columns import ROOM, Charge, Charged, charge_run, moved
from sluice.runtime.in_force import InForce, ReferenceStore
from sluice.runtime.incoming import Run
from sluice.runtime.leasing import Leasing
from sluice.runtime.outputs import Outbox, Record
from sluice.runtime.reports import check_report
from sluice.runtime.rows import budget_record
from sluice.runtime.state import State
from sluice.runtime.wholeness import numbers_seen, unanswered
from sluice.wire.codec import encode

__all__ = ["Governance", "ReferenceStore"]


class Governance(InForce):
    """Judges what has been used of the budgets that a partition looks after.

    `of_tenants`: whether these are those of its tenants, or those that span tenants. `epoch` orders
    decisions across owners of the partition; `version_base` is the topic generation's share of row
    versions.
    """

    def __init__(
        self,
        state: State,
        outbox: Outbox,
        references: ReferenceStore,
        *,
        epoch: int,
        version_base: int,
        of_tenants: bool = True,
    ) -> None:
        super().__init__(state, references, of_tenants=of_tenants)
        self._outbox = outbox
        self._epoch = epoch
        self._version_base = version_base
        self._agenda = Agenda()
        self._leasing = Leasing(state, outbox, self._agenda, self, self._is_whole)
        # Ledgers with a standing decision, by what their control key names.
        self._standing: dict[tuple[str, str, str], set[LedgerKey]] = defaultdict(set)
        self._filled = False
        self._restored_at = state.header.time
        # No sum of a ledger was ever farther from 0.
        self._most = 0

    def _is_whole(self, key: LeaseKey, last_seq: int) -> bool:
        if self._of_tenants:
            return numbers_seen(self._state, key, last_seq)
        return not unanswered(self._state, key, self._outbox.topics.partitions)

    # ---- usage

    def has_room(self, charged: Charged) -> bool:
        """Whether no ledger can leave 64 bits, whichever of these events are charged."""
        self._fill()
        units = {budget.ledger_unit for _, budget in self.governed()}
        return self._most + moved(units, charged) < ROOM

    def check(self, charged: Charged) -> None:
        """Raise OverflowError where a ledger cannot take the only event of a run."""
        event = charged.run.event(0)
        price = int(charged.cost_pusd[0]) if charged.priced[0] else None
        correction = event["event_type"] == "correction"
        for policy, budget in self.governed():
            scope = scope_of(budget, event)
            if scope is not None:
                period = budgets.charged_period(budget, event["started_at"])
                of = self._charge(policy, budget, scope, period, event["tenant_id"])
                used = amount(budget.ledger_unit, event, price)
                budgets.check(of.ledger, used, correction=correction)

    def charge(self, charged: Charged) -> None:
        """Charge the events of a run, all within one second, to their budgets, and judge these."""
        self._fill()
        charge_run(charged, self.governed(), self)

    def opened(
        self, policy: Policy, budget: Budget, counted: Counted, group: int, run: Run
    ) -> Charge:
        """The ledger of a group of events, opened where there is none."""
        scope, period = counted.scopes[group], counted.periods[group]
        key = budgets.ledger_key(policy, budget, scope, period)
        ledger = self._state.ledgers.get(key)
        if ledger is None:
            row = counted.first[group]
            self._state.header.time = int(run.time[row])
            tenant_id = run.usage.text("tenant_id").one(row) or ""
            _, ledger, _, _ = self._charge(policy, budget, scope, period, tenant_id)
            self._state.ledgers[key] = ledger
        return Charge(key, ledger, budget, policy)

    def _charge(
        self, policy: Policy, budget: Budget, scope: str, period: Period, tenant_id: str
    ) -> Charge:
        key = budgets.ledger_key(policy, budget, scope, period)
        ledger = self._state.ledgers.get(key)
        if ledger is None:
            time = self._state.header.time
            ledger = budgets.open_ledger(budget, tenant_id, scope, period, time)
        return Charge(key, ledger, budget, policy)

    def judge_at(self, charge: Charge, offset: int, time: int) -> None:
        """A ledger was charged by the event at `offset`; a rung may have moved."""
        self._state.header.time = time
        self.changed(charge.key, charge.ledger)
        self.judge(charge, offset)

    def tally(self, key: LedgerKey, source: str, source_epoch: str, used: int) -> None:
        """Usage of a process that may have a lease of a hard budget."""
        self._leasing.tally(key, source, source_epoch, used)

    def holder_report(self, record: Record, fields: dict[str, Any]) -> None:
        """Grant leases of hard budgets; WireError where a HolderReport breaks its contract."""
        check_report(record, fields, of_tenants=self._of_tenants)
        self._fill()
        self._leasing.report(record.offset, fields)

    def closing_leases(self) -> list[tuple[LeaseKey, Lease]]:
        """Leases of processes that are over and whose usage may not all have come."""
        self._fill()
        return self._leasing.closing()

    def close_whole(self) -> None:
        """End the leases of such processes whose usage has all come."""
        self._fill()
        self._leasing.close_whole()

    def held_to(
        self, policy: Policy, budget: Budget, scope: str, period: Period, tenant_id: str
    ) -> Ledger:
        """The ledger of a scope, opened and kept where there is none."""
        self._fill()
        key, ledger, _, _ = self._charge(policy, budget, scope, period, tenant_id)
        budgets.pass_slices(ledger, budget, self._state.header.time)
        self._state.ledgers[key] = ledger
        return ledger

    def changed(self, key: LedgerKey, ledger: Ledger) -> None:
        """Note that a ledger is to be stored, published and looked at again when it is due."""
        ledger.dirty = True
        self._most = max(self._most, budgets.largest(ledger))
        self._state.touch_ledger(key)
        self._agenda.enter(key, budgets.next_due(ledger))

    def judge(self, charge: Charge, offset: int, *, anew: bool = False, row: bool = True) -> None:
        """Publish a decision where the ledger's rung moved, or `anew` where one stands.

        `row`: the row follows at once, so that decision and row are seen together.
        """
        key, ledger, budget, policy = charge
        time = self._state.header.time
        if not budgets.is_current(ledger, time):
            return
        rung = budgets.rung_of(budget, ledger)
        if rung == ledger.rung and not (anew and rung):
            return
        ledger.rung = rung
        decision = decide(policy, budget, key, ledger, self.cause(offset))
        ledger.sequence = decision["sequence"]
        self._stand(key, ledger, decision["decision_id"], decision["expires_at"])
        self._state.count("decisions")
        self._outbox.control(control_key(policy, key), encode("Decision", decision), time)
        self._state.outcomes.begin(decision, time)
        if row:
            self.publish(key, offset + 1)

    def cause(self, offset: int) -> Cause:
        """The record behind what is said now."""
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
            elif isinstance(identity, LeaseKey):
                self._leasing.due(identity)
            else:
                self._ledger_due(cast("LedgerKey", identity), record.offset)
        self._leasing.close_whole()

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
            self._state.watchers.forget_terms()
        return budgets.pass_slices(ledger, budget, time) or ledger.limit != before

    def _withdraw(self, key: LedgerKey) -> None:
        """End a ledger's standing decision with a tombstone, unless a newer one replaced it."""
        self._end_outcome(self._state.ledgers[key])
        self._stand(key, self._state.ledgers[key], None, None)
        policy = self.policy(key.policy_id)
        if policy is not None and key[:3] not in self._standing:
            self._outbox.control(control_key(policy, key), None, self._state.header.time)

    def _end_outcome(self, ledger: Ledger) -> None:
        time = self._state.header.time
        if ledger.decision_id is not None:
            over = ledger.expires_at is not None and ledger.expires_at <= time
            self._state.outcomes.end(ledger.decision_id, "expired" if over else "lifted", time)

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
            self._most = max(self._most, budgets.largest(ledger))
            self._agenda.enter(key, budgets.next_due(ledger))
            if ledger.decision_id is not None:
                self._standing[key[:3]].add(key)
        self._leasing.fill()
        for policy in self.policies():
            # Of what the last owner knew: time may have moved on since the state was restored.
            self._agenda.enter((policy.policy_id,), limits_until(policy, self._restored_at))

    def publish(self, key: LedgerKey, position: int) -> None:
        """Publish a ledger as a row that covers the input below `position`."""
        ledger = self._state.ledgers[key]
        ledger.dirty = False
        self._state.touch_ledger(key)
        held = self._leasing.held(key)
        row = budget_record(key, ledger, self.budget(key), self._state.header.time, held)
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
        self._leasing.refit(before)

    def _say_rules(self, policy_id: str, offset: int) -> None:
        """Tell admission points the budgets of a policy; again when a raise of it ends."""
        policy = self.policy(policy_id)
        if policy is None:
            return
        number, cause = self._outbox.number, self.cause(offset)
        for budget in self.budgets_of(policy).values():
            value = encode("BudgetRule", rule_record(policy, budget, cause))
            self._outbox.control(rule_key(policy_id, budget.budget_id, number), value, cause.time)
        self._agenda.enter((policy_id,), limits_until(policy, cause.time))

    def _drop_rules(self, before: Policy | None, after: Policy | None) -> None:
        kept = self.budgets_of(after)
        for budget_id in sorted(self.budgets_of(before)):
            if before is not None and budget_id not in kept:
                key = rule_key(before.policy_id, budget_id, self._outbox.number)
                self._outbox.control(key, None, self._state.header.time)

    def _rejudge(
        self, key: LedgerKey, before: Policy | None, after: Policy | None, offset: int
    ) -> None:
        ledger = self._state.ledgers[key]
        budget = self.budget_of(after, key, ledger.period_start)
        old = self.budget_of(before, key, ledger.period_start)
        moved = before is not None and after is not None and before.mode != after.mode
        other = budget is not None and ledger.unit != budget.ledger_unit
        # The news that a limit no longer holds is not said again, and is of the old version.
        gone = budget is None or moved or other or not ledger.rung
        if ledger.decision_id is not None and before and gone:
            self._outbox.control(control_key(before, key), None, self._state.header.time)
            ledger.rung = 0
            self._end_outcome(ledger)
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


def _outlasts_itself(ledger: Ledger, budget: Budget, time: int) -> bool:
    """Whether the decision of a rolling period has to be said again, in its last slice."""
    if budget.rolling_us is None or ledger.expires_at is None:
        return False
    return ledger.rung > 0 and ledger.expires_at - budgets.slice_us(budget) <= time


def _later(due: int | None, time: int) -> int | None:
    """A time that is over without anything to end is not looked at again."""
    return due if due is None or due > time else None
