"""Hard budgets as one admission point sees them: what is left of its leases, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sluice.admission.accounts import Account
from sluice.admission.budget_rule import BudgetRule
from sluice.admission.sentences import Explained, utc
from sluice.wire.scopes import scope_fields


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """A budget and this process's lease on it; amounts in `unit`, times in µs UTC.

    `scope` and what follows it are None where nothing was asked of the budget here yet. `left` is
    None without a lease in force; `overshoot` is what requests took beyond what they reserved.
    """

    rule: BudgetRule
    unit: str
    scope: str | None = None
    period: str | None = None
    ends_at: int | None = None
    limit: int | None = None
    granted: int | None = None
    committed: int | None = None
    reserved: int | None = None
    left: int | None = None
    lease_expires_at: int | None = None
    overshoot: int = 0

    @property
    def sentence(self) -> str:
        """The standing for people."""
        rule = self.rule
        head = f"budget {rule.budget_id} of policy {rule.policy_id} {rule.policy_version}"
        if rule.shadow:
            return f"{head} is in shadow and refuses nothing"
        if not rule.hard:
            return f"{head} is soft: decisions tell when it is spent"
        if self.scope is None:
            return f"{head} is hard; nothing was asked of it here yet"
        return f"{head} for {rule.whom(self.scope)}, {self.period}: {self._lease()}"

    def _lease(self) -> str:
        spent = f"{self.committed} spent and {self.reserved} reserved here of {self.unit}"
        if self.left is None:
            return f"no lease in force, {spent}"
        until = "" if self.lease_expires_at is None else f" until {utc(self.lease_expires_at)}"
        return f"{self.left} left of a lease of {self.granted}{until}, {spent}"


class Explanation(NamedTuple):
    """All that can meet a request: decisions, strictest first, and budgets with their leases."""

    decisions: list[Explained]
    budgets: list[BudgetStanding]


def standings(
    rules: Iterable[BudgetRule], accounts: Iterable[Account], now: int,
    scope: Mapping[str, str | None],
) -> Iterator[BudgetStanding]:  # fmt: skip
    """Every budget that can meet a request of `scope`, with each of its accounts there are.

    A field that `scope` leaves out or null may have any value.
    """
    by_name: dict[tuple[str, str], list[Account]] = {}
    for account in accounts:
        by_name.setdefault((account.key.policy_id, account.key.budget_id), []).append(account)
    for rule in rules:
        if any(scope.get(name) not in (None, value) for name, value in rule.where):
            continue
        found = [account for account in by_name.get((rule.policy_id, rule.budget_id), ())
                 if _touches(account, scope)]  # fmt: skip
        if found:
            yield from (_standing(account, now) for account in found)
        else:
            yield BudgetStanding(rule, rule.unit)


def _touches(account: Account, scope: Mapping[str, str | None]) -> bool:
    fields = scope_fields(account.key.scope)
    return all(scope.get(name) in (None, value) for name, value in fields.items())


def _standing(account: Account, now: int) -> BudgetStanding:
    rule, key, grant = account.rule, account.key, account.grant
    return BudgetStanding(
        rule, key.unit, key.scope, key.period_id, account.ends_at, rule.limit_of(key.scope),
        None if grant is None else grant["granted_total"], account.committed, account.reserved,
        account.room(now), None if grant is None else grant["expires_at"], account.overshoot,
    )  # fmt: skip
