"""All leases of one admission point: what a request needs of them, all or nothing.

Pure; one thread at a time. `Leases` is one process's: a forked child begins with none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sluice.admission.accounts import Account, AccountKey, Hold
from sluice.admission.amounts import applies, estimated, used
from sluice.admission.budget_rule import BudgetRule, Span, UnknownScope
from sluice.admission.verdict import AdmissionRequest

# Accounts that were let go and whose sum is remembered, such as those of tasks; beyond it the
# longest gone are forgotten.
MAX_ENDED = 1_000_000

Grants = Mapping[bytes, Mapping[str, Any]]
# An account, and the HolderReport to send on it.
Report = tuple[Account, dict[str, Any]]


class Claim(NamedTuple):
    """What one hard budget must have room for before a request runs.

    `tenant_id` is empty where the budget spans tenants.
    """

    rule: BudgetRule
    key: AccountKey
    span: Span
    tenant_id: str
    amount: int


class Doubt(NamedTuple):
    """A budget whose limit cannot be told for a request, and why: one of SITUATIONS."""

    rule: BudgetRule
    situation: str
    detail: str


class Troubles(NamedTuple):
    """Situations in which the point is, by who owns a budget; whatever the request."""

    of_tenants: Sequence[str] = ()
    across: Sequence[str] = ()

    def of(self, rule: BudgetRule) -> Sequence[str]:
        """Those that concern a budget."""
        return self.of_tenants if rule.of_tenant else self.across


NO_TROUBLES = Troubles()


class Lack(NamedTuple):
    """A claim that found too little room; `room` None = no lease in force."""

    claim: Claim
    account: Account
    room: int | None


def claims_of(
    rules: Iterable[BudgetRule],
    request: AdmissionRequest,
    now: int,
    troubles: Troubles = NO_TROUBLES,
) -> tuple[list[Claim], list[Doubt]]:
    """What a request needs of every hard budget that it meets at `now`, and what is in doubt."""
    claims: list[Claim] = []
    doubts: list[Doubt] = []
    for rule in rules:
        if not rule.concerns(request) or not applies(rule.unit, request):
            continue
        doubts += [Doubt(rule, trouble, "") for trouble in troubles.of(rule)]
        scope = rule.scope_of(request)
        if isinstance(scope, UnknownScope):
            doubts.append(Doubt(rule, "unknown_scope", f"the request has no {scope.field}"))
            continue
        amount = estimated(rule.unit, request)
        if amount is None:
            doubts.append(Doubt(rule, "no_price", f"nothing tells how many {rule.unit} it takes"))
        if rule.hard:
            tenant_id = request.tenant_id if rule.of_tenant else ""
            span = rule.span_at(now)
            key = AccountKey(rule.policy_id, rule.budget_id, scope, span.period_id, rule.unit)
            claims.append(Claim(rule, key, span, tenant_id, amount or 0))
    return claims, doubts


def claim_on(account: Account, amount: int) -> Claim:
    """A further claim on an account."""
    span = Span(account.key.period_id, account.ends_at)
    return Claim(account.rule, account.key, span, account.tenant_id, amount)


class Leases:
    """Accounts by ledger, under the name of their holder.

    `source_epoch` is known with the first report; before it there is no lease to have.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.source_epoch: str | None = None
        self.accounts: dict[AccountKey, Account] = {}
        # What was spent under accounts let go: who comes again must not have their leases anew.
        self._ended: OrderedDict[AccountKey, int] = OrderedDict()

    def account(self, claim: Claim, grants: Grants) -> Account:
        """The account of a claim with its newest grant."""
        account = self.accounts.get(claim.key)
        if account is None:
            account = Account(claim.rule, claim.key, claim.span, claim.tenant_id)
            account.committed = self._ended.pop(claim.key, 0)
            self.accounts[claim.key] = account
        account.rule = claim.rule
        account.see(grants.get(account.lease_key(self.holder, self.source_epoch)))
        return account

    def hold(
        self, claims: Iterable[Claim], grants: Grants, now: int
    ) -> tuple[list[Hold], list[Lack]]:
        """Reserve every claim, or none and say which found too little room."""
        found = [(claim, self.account(claim, grants)) for claim in claims]
        lacks = []
        for claim, account in found:
            room = account.room(now)
            # Nothing can be taken without a lease too.
            if claim.amount and (room is None or room < claim.amount):
                lacks.append(Lack(claim, account, room))
        if lacks:
            return [], lacks
        return [account.hold(claim.amount, now) for claim, account in found], []

    def hold_anyway(self, claims: Iterable[Claim], grants: Grants, now: int) -> list[Hold]:
        """Reserve without asking for room, where fail rules are open."""
        return [self.account(claim, grants).hold(claim.amount, now) for claim in claims]

    def due(
        self, among: Iterable[Account], grants: Grants, now: int, holder_slot: str
    ) -> Iterator[Report]:
        """Reports to send now; accounts that are over are closed, idle ones are forgotten."""
        for account in among:
            account.see(grants.get(account.lease_key(self.holder, self.source_epoch)))
            if account.over(now):
                self._forget(account)
                if account.reported_at is not None:
                    yield account, account.report(holder_slot, now, closing=True)
            elif account.is_due(now):
                yield account, account.report(holder_slot, now)
            elif account.idle(now):
                # Its lease has expired with nothing in it. A closed one could not be had again.
                self._forget(account)

    def _forget(self, account: Account) -> None:
        self.accounts.pop(account.key, None)
        self._ended[account.key] = account.committed
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def closing(self, now: int, holder_slot: str) -> Iterator[Report]:
        """The last reports of this process."""
        accounts, self.accounts = self.accounts, {}
        for account in accounts.values():
            if account.reported_at is not None:
                yield account, account.report(holder_slot, now, closing=True)


def settle(hold: Hold, usage: Mapping[str, Any] | None, interim: int, now: int) -> int:
    """Turn a hold into what `usage` tells, None = nothing was used; returns what was spent.

    Where it does not tell, all of the hold was spent, or more if more was streamed.
    """
    account, amount = hold
    told = 0 if usage is None else used(account.key.unit, usage)
    spent = max(amount, interim) if told is None else told
    account.settle(amount, interim, spent, now)
    return spent


def give_up(hold: Hold, interim: int, now: int) -> None:
    """Charge all of a hold whose end nobody tells."""
    hold.account.settle(hold.amount, interim, hold.amount, now)
