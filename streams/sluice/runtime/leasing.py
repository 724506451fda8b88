"""Leases of one partition: reports heard, grants published, silence and its end."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple, Protocol

from sluice.enforcement import budgets, leases
from sluice.enforcement.amounts import scope_text_of
from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.enforcement.decisions import Cause
from sluice.enforcement.leases import CLOSED, OPEN, PRESUMED, SEEN, Lease, LeaseKey, Room
from sluice.enforcement.policy import Budget, Policy
from sluice.enforcement.reserved import Reserved
from sluice.enforcement.rules_said import grant_record
from sluice.money import clamped
from sluice.periods import Period
from sluice.runtime.agenda import Agenda
from sluice.runtime.outputs import Outbox
from sluice.runtime.reports import AHEAD_US, named_period, read_report
from sluice.runtime.rows import Held
from sluice.runtime.state import LEASE, State
from sluice.runtime.wholeness import IsWhole
from sluice.wire.codec import encode
from sluice.wire.scopes import scope_fields, scope_text


class Link(NamedTuple):
    """One ledger of a chain with its budget."""

    budget: Budget
    key: LedgerKey
    ledger: Ledger


class Court(Protocol):
    """What a lease asks of the budgets in force."""

    def governed(self) -> list[tuple[Policy, Budget]]:
        """Budgets in force that are looked after here, each with its policy."""

    def policy(self, policy_id: str) -> Policy | None:
        """The version of a policy that is in force."""

    def budget(self, key: LedgerKey) -> Budget | None:
        """The budget in force that a ledger belongs to."""

    def held_to(self, policy: Policy, budget: Budget, scope: str, period: Period,
                tenant_id: str) -> Ledger:  # fmt: skip
        """The ledger of a scope, opened and kept where there is none."""

    def changed(self, key: LedgerKey, ledger: Ledger) -> None:
        """A ledger's row is to be published again."""

    def cause(self, offset: int) -> Cause:
        """The record behind what is said now."""


class Leasing:
    """Shares out what is left of hard budgets."""

    def __init__(
        self, state: State, outbox: Outbox, agenda: Agenda, court: Court, is_whole: IsWhole
    ) -> None:
        self._state = state
        self._outbox = outbox
        self._agenda = agenda
        self._court = court
        self._is_whole = is_whole
        self._by_ledger: dict[LedgerKey, set[LeaseKey]] = defaultdict(set)
        self._closing: set[LeaseKey] = set()
        self._reserved = Reserved()

    # ---- what others ask

    def held(self, key: LedgerKey) -> Held:
        """What holders have of a ledger."""
        presumed = self._reserved.presumed(key)
        return Held(self._reserved.total(key) - presumed, presumed)

    def fill(self) -> None:
        """Look at everything that the state holds."""
        self._reserved = Reserved()
        self._by_ledger.clear()
        for key, lease in self._state.leases.items():
            self._index(key, lease)
            self._agenda.enter(key, _due(lease))

    def _index(self, key: LeaseKey, lease: Lease) -> None:
        self._by_ledger[key.ledger].add(key)
        if lease.closing and lease.phase != CLOSED:
            self._closing.add(key)
        self._reserved.put(self._chain_keys(key), key, lease)

    # ---- usage

    def tally(self, key: LedgerKey, source: str, source_epoch: str, used: int) -> None:
        """Usage of a process that may have a lease; it replaces what was granted or presumed."""
        lease_key = LeaseKey(*key, source, source_epoch)
        lease = self._state.leases.get(lease_key)
        ledger = self._state.ledgers[key]
        if lease is None:
            if not self._may_spend(ledger):
                return
            lease = self._opened(lease_key, ledger)
        lease.settled = clamped(lease.settled + used)
        if self._budget(lease_key).rolling_us is not None:
            lease.ends_at = self._ends_at(lease_key, ledger)
        self._note(lease_key, lease)

    def _opened(self, key: LeaseKey, ledger: Ledger) -> Lease:
        lease = self._state.leases[key] = Lease(self._ends_at(key, ledger))
        return lease

    def _ends_at(self, key: LeaseKey, ledger: Ledger) -> int:
        """The end of the period; a rolling one is over when all usage has left it."""
        rolling_us = self._budget(key).rolling_us
        return self._state.header.time + 2 * rolling_us if rolling_us else ledger.period_end

    # ---- reports

    def report(self, offset: int, fields: dict[str, Any]) -> None:
        """Hear a HolderReport that was found at `offset` and keeps its contract."""
        names = set(fields["budget_ids"])
        heard = 0
        for policy, budget in self._court.governed():
            if budget.budget_id in names and fields["policy_id"] in ("", policy.policy_id):
                heard += self._hear(offset, fields, policy, budget)
        self._state.count("reports", heard)
        self._state.count("reports_ignored", max(0, len(names) - heard))

    def _hear(self, offset: int, fields: dict[str, Any], policy: Policy, budget: Budget) -> bool:
        """Whether a report said anything about a budget that it names."""
        scope = fields["scope"] or _whole_tenant(fields["tenant_id"])
        if not budget.hard or fields["unit"] != budget.ledger_unit:
            return False
        known = self._state.ledgers.get(
            LedgerKey(policy.policy_id, budget.budget_id, scope, fields["period"])
        )
        period = named_period(budget, scope, fields, known, self._state.header.time)
        if period is None:
            return False
        chain = self._chain(policy, budget, scope, period, fields["tenant_id"])
        key = LeaseKey(*chain[0].key, fields["holder"], fields["source_epoch"])
        lease = self._state.leases.get(key) or self._opened(key, chain[0].ledger)
        report = read_report(fields)
        if leases.is_stale(lease, report):
            return False
        is_whole = self._is_whole(key, report.last_seq)
        is_priced = not chain[0].ledger.unpriced
        leases.hear(
            lease, report, self._state.header.time, is_whole=is_whole, is_priced=is_priced,
            in_order=budget.of_tenant,
        )  # fmt: skip
        lease.ends_at = max(lease.ends_at, self._ends_at(key, chain[0].ledger))
        if report.closing:
            self._begin_closing(key, lease)
        elif self._may_spend(chain[0].ledger):
            self._share_out(chain, key, offset)
        self._note(key, lease)
        return True

    def _may_spend(self, ledger: Ledger) -> bool:
        """Whether requests are admitted in a ledger's period now, by whatever clock."""
        time = self._state.header.time
        return ledger.period_start - AHEAD_US <= time < ledger.period_end

    def _chain(
        self, policy: Policy, budget: Budget, scope: str, period: Period, tenant_id: str
    ) -> list[Link]:
        """A ledger and what it draws on, all of them opened."""
        chain = []
        for one in (budget, *policy.ancestors[budget.budget_id]):
            part = _part(one, scope)
            ledger = self._court.held_to(policy, one, part, period, tenant_id)
            chain.append(Link(one, budgets.ledger_key(policy, one, part, period), ledger))
        return chain

    # ---- grants

    def _share_out(self, chain: list[Link], key: LeaseKey, offset: int) -> None:
        """Grant what is fair to the holder that reported, and to others who wait for more."""
        ledger, budget = chain[0].ledger, chain[0].budget
        lease, all_of = self._state.leases[key], self._leases_of(chain[0].key)
        lease.phase = OPEN
        all_of[key] = lease
        room = leases.free(ledger.limit, ledger.settled, all_of.values())
        wants = {
            k: (leases.wanted(l), budget.weights.get(l.slot, 1))
            for k, l in all_of.items()
            if l.phase == OPEN
        }
        needs = {k: min(all_of[k].per_request, want) for k, (want, _) in wants.items()}
        shares = leases.usable_shares(leases.fair_shares(room, wants), needs, key)
        ends_at = min(self._state.header.time + leases.TTL_US, lease.ends_at)
        self._grant(chain, key, shares[key], ends_at, offset)
        for other in sorted(wants.keys() - {key}):
            waiting = all_of[other]
            if waiting.limited_by is not None:
                amount, _ = leases.target(waiting, shares[other], self._rooms(chain, other))
                if amount > waiting.granted:
                    self._grant(chain, other, shares[other], waiting.expires_at, offset)

    def _leases_of(self, key: LedgerKey) -> dict[LeaseKey, Lease]:
        return {k: self._state.leases[k] for k in sorted(self._by_ledger.get(key, ()))}

    def _rooms(self, chain: list[Link], key: LeaseKey) -> list[Room]:
        """How far a lease may grow in each ledger of its chain."""
        settled = max(self._state.leases[key].settled, 0)
        others = self._reserved.others([link.key for link in chain], key[4:])
        return [
            Room(link.budget.budget_id, settled + link.ledger.limit - link.ledger.settled - had)
            for link, had in zip(chain, others, strict=True)
        ]

    def _grant(
        self, chain: list[Link], key: LeaseKey, share: int, expires_at: int, offset: int
    ) -> None:
        lease, budget = self._state.leases[key], chain[0].budget
        amount, by = leases.target(lease, share, self._rooms(chain, key))
        if by is None and share < leases.wanted(lease):
            by = budget.budget_id
        cause = self._court.cause(offset)
        leases.grant(lease, amount, by, expires_at, cause.time)
        lease.sequence = max(offset, lease.sequence + 1)
        self._note(key, lease)
        said = grant_record(self._policy(key), key, lease, budget, cause)
        value = encode("LeaseGrant", said)
        self._outbox.control(leases.lease_key_bytes(key), value, cause.time)

    # ---- ends

    def _begin_closing(self, key: LeaseKey, lease: Lease) -> None:
        lease.closing = True
        if lease.phase != SEEN:
            lease.phase = PRESUMED
        self._closing.add(key)
        self._close_if_whole(key)

    def closing(self) -> list[tuple[LeaseKey, Lease]]:
        """Leases whose processes are over and whose usage may not all have come."""
        return [(key, self._state.leases[key]) for key in sorted(self._closing)]

    def close_whole(self) -> None:
        """End the leases whose processes are over and whose usage has all come."""
        for key in sorted(self._closing):
            self._close_if_whole(key)

    def _close_if_whole(self, key: LeaseKey) -> None:
        lease = self._state.leases.get(key)
        if lease is None or not self._is_whole(key, lease.last_seq):
            return
        self._closing.discard(key)
        ledger = self._state.ledgers[key.ledger]
        if ledger.unit == "concurrency":
            lease.base = 0  # no usage will say that it has ended
        leases.close(lease, is_priced=not ledger.unpriced)
        self._note(key, lease)
        self._tell_end(key)

    def due(self, key: LeaseKey) -> None:
        """A lease expires, or its row is over."""
        lease, time = self._state.leases.get(key), self._state.header.time
        if lease is None:
            return
        if lease.ends_at <= time:
            if lease.phase in (OPEN, PRESUMED):
                self._tell_end(key)
            self.forget(key)
            return
        if lease.phase == OPEN and lease.expires_at <= time:
            leases.lapse(lease)
            if lease.phase == SEEN:
                self._tell_end(key)
            self._note(key, lease)
        self._agenda.enter(key, _due(lease))

    def _tell_end(self, key: LeaseKey) -> None:
        self._outbox.control(leases.lease_key_bytes(key), None, self._state.header.time)

    def forget(self, key: LeaseKey) -> None:
        """A lease of a period that is over, or of a budget that is gone."""
        ledger_key = key.ledger
        self._reserved.put(self._chain_keys(key), key, None)
        self._by_ledger[ledger_key].discard(key)
        self._closing.discard(key)
        del self._state.leases[key]
        self._state.touch(LEASE, key)
        self._changed_chain(key)

    def refit(self, before: Policy | None) -> None:
        """End leases of budgets that are gone, soft or in another unit by now; look at all anew."""
        for key in sorted(self._state.leases):
            if before is None or key.policy_id != before.policy_id:
                continue
            new, old = self._court.budget(key.ledger), before.by_id.get(key.budget_id)
            if new is None or not new.hard or not old or new.ledger_unit != old.ledger_unit:
                if self._state.leases[key].phase in (OPEN, PRESUMED):
                    self._tell_end(key)
                del self._state.leases[key]
                self._closing.discard(key)
                self._state.touch(LEASE, key)
        self.fill()

    def _note(self, key: LeaseKey, lease: Lease) -> None:
        """A lease changed."""
        self._by_ledger[key.ledger].add(key)
        self._reserved.put(self._chain_keys(key), key, lease)
        self._state.touch(LEASE, key)
        self._agenda.enter(key, _due(lease))
        self._changed_chain(key)

    def _changed_chain(self, key: LeaseKey) -> None:
        for ledger_key in self._chain_keys(key):
            ledger = self._state.ledgers.get(ledger_key)
            if ledger is not None:
                self._court.changed(ledger_key, ledger)

    def _chain_keys(self, key: LeaseKey) -> list[LedgerKey]:
        policy = self._court.policy(key.policy_id)
        chain = [key.ledger]
        for one in policy.ancestors.get(key.budget_id, ()) if policy else ():
            part = _part(one, key.scope)
            chain.append(LedgerKey(key.policy_id, one.budget_id, part, key.period_id))
        return chain

    def _budget(self, key: LeaseKey) -> Budget:
        return self._policy(key).by_id[key.budget_id]

    def _policy(self, key: LeaseKey) -> Policy:
        policy = self._court.policy(key.policy_id)
        if policy is None:
            raise LookupError(f"policy {key.policy_id} is not in force")
        return policy


def _whole_tenant(tenant_id: str) -> str:
    return scope_text([("tenant_id", tenant_id)]) if tenant_id else ""


def _part(budget: Budget, scope: str) -> str:
    """The scope of an ancestor, whose fields are some of the scope's."""
    named = scope_fields(scope)
    return scope_text_of(budget.scope, tuple(named[field] for field in budget.scope))


def _due(lease: Lease) -> int:
    return min(lease.expires_at, lease.ends_at) if lease.phase == OPEN else lease.ends_at
