"""Policies in force in one partition, and the budgets that its ledgers belong to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from sluice.enforcement import budgets
from sluice.enforcement.budgets import LedgerKey
from sluice.enforcement.policy import Budget, Policy
from sluice.runtime.state import State
from sluice.wire.scopes import scope_fields


class ReferenceStore(Protocol):
    """Where published policies and price books are looked up by (kind, id, version)."""

    def get(self, name: tuple[str, str, str]) -> Any:
        """The version, or None while it has not arrived."""

    def is_faulty(self, name: tuple[str, str, str]) -> bool:
        """Whether it arrived and cannot be read, or was never published."""


class InForce:
    """Looks up what the header of a partition's state names.

    `of_tenants`: whether the budgets looked after are those of tenants, or those that span them.
    """

    def __init__(
        self, state: State, references: ReferenceStore, *, of_tenants: bool = True
    ) -> None:
        self._state = state
        self._references = references
        self._of_tenants = of_tenants

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

    def budgets_of(self, policy: Policy | None) -> dict[str, Budget]:
        """Budgets of a policy that are looked after here, by budget_id."""
        found = policy.budgets if policy else ()
        return {one.budget_id: one for one in found if one.of_tenant == self._of_tenants}

    def governed(self) -> list[tuple[Policy, Budget]]:
        """Budgets in force that are looked after here, each with its policy."""
        policies = self.policies()
        return [(policy, one) for policy in policies for one in self.budgets_of(policy).values()]

    def budget(self, key: LedgerKey) -> Budget | None:
        """The budget in force that a ledger belongs to."""
        return self.budget_of(
            self.policy(key.policy_id), key, self._state.ledgers[key].period_start
        )

    def budget_of(self, policy: Policy | None, key: LedgerKey, period_start: int) -> Budget | None:
        """The budget of a ledger, unless it has other scopes or periods by now."""
        budget = self.budgets_of(policy).get(key.budget_id)
        if budget is None or scope_fields(key.scope).keys() != set(budget.scope):
            return None
        period = budgets.charged_period(budget, period_start)
        return budget if period.period_id == key.period_id else None
