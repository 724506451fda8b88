"""Policies: their budgets, how these draw on each other, and the version that names one content."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from sluice.enforcement.policy_budget import Budget, Ident, Raise, Rule, Strict
from sluice.enforcement.policy_ladder import BudgetLadder, RiskLadder

__all__ = ["Budget", "Policy", "Raise", "Rule"]


class Policy(Strict):
    """A whole policy; `version` follows from its content, not from its formatting."""

    policy_id: Ident
    mode: Literal["enforce", "shadow"] = "enforce"
    budgets: Annotated[tuple[Budget, ...], Field(min_length=1)]
    ladder: BudgetLadder | None = None
    risk: RiskLadder | None = None

    @field_validator("budgets")
    @classmethod
    def _unique(cls, value: tuple[Budget, ...]) -> tuple[Budget, ...]:
        names = [budget.budget_id for budget in value]
        if len(set(names)) < len(names):
            raise ValueError("budget_id must be unique within a policy")
        for budget in value:
            _check_parent(budget, {b.budget_id: b for b in value})
        return value

    @model_validator(mode="after")
    def _budgets_of_tenants(self) -> Policy:
        for rule in self.ladder.rules if self.ladder else ():
            if rule.budget_id is None:
                continue
            budget = self.by_id.get(rule.budget_id)
            if budget is None:
                raise ValueError(f"ladder rule {rule.rule_id}: no budget {rule.budget_id!r}")
            if budget.scope != ("tenant_id",) or budget.where or budget.period == "task":
                raise ValueError(
                    f"ladder rule {rule.rule_id}: budget {rule.budget_id} is not one of all that "
                    "a tenant spends in a period"
                )
            if rule.signal == "exhaustion" and budget.period == "rolling":
                raise ValueError(
                    f"ladder rule {rule.rule_id}: budget {rule.budget_id} is rolling, so it has no "
                    "end before which it could be exhausted"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sections that are left out are not named, so that older policies keep their version."""
        content: dict[str, Any] = handler(self)
        empty = {name for name in ("ladder", "risk") if content[name] is None}
        return {name: value for name, value in content.items() if name not in empty}

    @cached_property
    def by_id(self) -> dict[str, Budget]:
        """Budgets by budget_id."""
        return {budget.budget_id: budget for budget in self.budgets}

    @cached_property
    def ancestors(self) -> dict[str, tuple[Budget, ...]]:
        """What each budget draws on, the nearest first, by budget_id."""
        return {budget.budget_id: _chain(budget, self.by_id) for budget in self.budgets}

    @cached_property
    def version(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Canonical JSON, as it is published."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """A policy from its canonical JSON; pydantic.ValidationError where it is none."""
        return cls.model_validate_json(text)


def _chain(budget: Budget, by_id: dict[str, Budget]) -> tuple[Budget, ...]:
    found: list[Budget] = []
    while budget.parent is not None:
        budget = by_id[budget.parent]
        found.append(budget)
    return tuple(found)


def _check_parent(budget: Budget, by_id: dict[str, Budget]) -> None:
    """Raise ValueError where a budget cannot draw on its parent's remainder."""
    if budget.parent is None:
        return
    head, parent = f"budget {budget.budget_id} draws on {budget.parent}", by_id.get(budget.parent)
    if parent is None:
        raise ValueError(f"{head}, which is no budget of this policy")
    passed = [budget.budget_id]
    while parent is not None and parent.parent is not None:
        passed.append(parent.budget_id)
        if parent.parent in passed:
            raise ValueError(f"{head}, which draws on itself: {' > '.join(passed)}")
        parent = by_id.get(parent.parent)
    sentence = _misfit(budget, by_id[budget.parent])
    if sentence:
        raise ValueError(f"{head}, {sentence}")


def _misfit(budget: Budget, parent: Budget) -> str | None:
    if budget.of_tenant != parent.of_tenant:
        return "which spans tenants; without a parent, requests need room in both anyway"
    if budget.unit != parent.unit:
        return f"which is in {parent.unit}, not in {budget.unit}"
    if _calendar(budget) != _calendar(parent):
        return f"whose period is {_calendar(parent)}, not {_calendar(budget)}"
    if not set(parent.scope) <= set(budget.scope):
        return f"whose scope {list(parent.scope)} is not part of {list(budget.scope)}"
    if not parent.where.items() <= budget.where.items():
        return f"which does not count all of its usage: it wants {dict(parent.where)}"
    if budget.hard and not parent.hard:
        return "which is soft; a hard budget draws on a hard one"
    return None


def _calendar(budget: Budget) -> str:
    length = f" {budget.rolling}" if budget.rolling else ""
    return f"{budget.period}{length} {budget.time_zone}"
