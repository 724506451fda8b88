"""What admission points learn of budgets in force: BudgetRules and LeaseGrants on control.v1."""

from __future__ import annotations

from typing import Any

from sluice.enforcement.decisions import Cause, decision_scope
from sluice.enforcement.leases import Lease, LeaseKey, granted_total, lease_id
from sluice.enforcement.policy import Budget, Policy
from sluice.wire.scopes import scope_fields


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


def grant_record(
    policy: Policy, key: LeaseKey, lease: Lease, budget: Budget, cause: Cause
) -> dict[str, Any]:
    """A LeaseGrant as it goes on the wire."""
    return {
        "lease_id": lease_id(key),
        "policy_id": key.policy_id,
        "budget_id": key.budget_id,
        "scope": decision_scope({**budget.where, **scope_fields(key.scope)}),
        "holder": key.holder,
        "source_epoch": key.source_epoch,
        "period": key.period_id,
        "granted_total": granted_total(lease),
        "unit": budget.ledger_unit,
        "refresh_after_ms": budget.refresh_after_ms,
        "issued_at": cause.time,
        "expires_at": lease.expires_at,
        "epoch": cause.epoch,
        "sequence": lease.sequence,
        "limited_by": lease.limited_by,
        "policy_version": policy.version,
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
