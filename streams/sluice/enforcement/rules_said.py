"""Budgets in force as admission points learn them: BudgetRule records on the control topic."""

from __future__ import annotations

from typing import Any

from sluice.enforcement.decisions import Cause
from sluice.enforcement.policy import Budget, Policy


def rule_key(policy_id: str, budget_id: str, partition: int) -> bytes:
    """Compaction key: the newest word of a partition about a budget."""
    return f"budget|{policy_id}|{budget_id}|{partition}".encode()


def rule_record(policy: Policy, budget: Budget, cause: Cause) -> dict[str, Any]:
    """A BudgetRule as it goes on the wire, with the limits that hold at the time of its cause."""
    scopes = sorted({*budget.scope_limits, *budget.scope_raises})
    limits = {scope: budget.limit_for(scope, cause.time) for scope in scopes}
    return {
        "policy_id": policy.policy_id,
        "policy_version": policy.version,
        "budget_id": budget.budget_id,
        "mode": policy.mode,
        "scope": list(budget.scope),
        "where": _pairs(budget.where),
        "parent": budget.parent,
        "unit": budget.ledger_unit,
        "limit": budget.limit,
        "limits": _pairs(limits),
        "period": budget.period,
        "time_zone": budget.time_zone,
        "rolling_us": budget.rolling_us,
        "hard": budget.hard,
        "lease_wait_ms": budget.lease_wait_ms,
        "refresh_after_ms": budget.refresh_after_ms,
        "fail": [{"situation": s, "action": a} for s, a in sorted(budget.fail.items())],
        "source_partition": cause.partition,
        "epoch": cause.epoch,
        "sequence": cause.offset,
        "issued_at": cause.time,
    }


def limits_until(policy: Policy, time: int) -> int | None:
    """When the next raise of a policy ends after `time`, µs UTC."""
    ends = (
        budget.limit_until(scope, time)
        for budget in policy.budgets
        for scope in budget.scope_raises
    )
    return min((end for end in ends if end is not None), default=None)


def _pairs(values: Any) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in sorted(values.items())]
