"""Decisions as they go on the control topic: what, why, on what evidence, until when.

Everything in a decision derives from the event that caused it, so a replay of the same input gives
the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

from sluice.enforcement.budgets import Ledger, LedgerKey, ends_at
from sluice.enforcement.policy import Budget, Policy, Rule
from sluice.enforcement.policy_budget import UNDECIDED_FIELDS
from sluice.enforcement.units import shown_share
from sluice.wire.scopes import scope_fields

# How long the news that a limit no longer holds stays on the control topic.
ALLOW_US = 600_000_000


@dataclass(frozen=True, slots=True)
class Cause:
    """The record that made a decision: its place, its broker time, its owner's epoch."""

    partition: int
    offset: int
    time: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a decision says, whatever led to it.

    `scope` and `params` are the fields that are not null; `identity` tells it from every other
    decision of the same record.
    """

    rule_id: str
    scope: Mapping[str, str]
    action: str
    params: Mapping[str, Any]
    reason_code: str
    reason: str
    evidence: Mapping[str, Any]
    sequence: int
    expires_at: int
    on_expiry: str
    retry_after_ms: int | None
    supersedes: str | None
    identity: tuple[str, ...]


def decision_scope(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that the scope of a decision or a grant has."""
    return {name: value for name, value in fields.items() if name not in UNDECIDED_FIELDS}


def control_key(policy: Policy, key: LedgerKey) -> bytes:
    """Compaction key: the newest decision of a budget about a scope replaces the one before."""
    return decision_key(policy, key.budget_id, key.scope)


def decision_key(policy: Policy, rule_id: str, scope: str) -> bytes:
    """Compaction key of the decisions of a rule about a scope, as BudgetRow.scope."""
    return f"decision|{policy.policy_id}|{rule_id}|{policy.mode}|{scope}|".encode()


def decide(
    policy: Policy, budget: Budget, key: LedgerKey, ledger: Ledger, cause: Cause
) -> dict[str, Any]:
    """The decision for the rung that the ledger stands on; rung 0 allows again."""
    rule = budget.rules[ledger.rung - 1] if ledger.rung else None
    action = rule.action if rule else "allow"
    return record_of(policy, cause, Content(
        rule_id=budget.budget_id,
        scope=decision_scope({**budget.where, **scope_fields(key.scope)}),
        action=action,
        params=_params(rule),
        reason_code=_reason_code(rule),
        reason=_reason(budget, key, ledger, rule),
        evidence=_evidence(budget, ledger, rule, key, cause),
        # Two decisions about a scope at one offset, such as an end of a raise and a charge.
        sequence=max(cause.offset, ledger.sequence + 1),
        expires_at=ends_at(ledger, budget) if rule else cause.time + ALLOW_US,
        on_expiry=budget.on_expiry if rule else "open",
        retry_after_ms=_retry_after_ms(rule, ledger, cause.time),
        supersedes=ledger.decision_id,
        identity=tuple(key),
    ))  # fmt: skip


def record_of(policy: Policy, cause: Cause, content: Content) -> dict[str, Any]:
    """A Decision as it goes on the wire; its id is the same in every replay of the same input."""
    return {
        "decision_id": _decision_id(policy, content, cause),
        "kind": "decision",
        "policy_id": policy.policy_id,
        "rule_id": content.rule_id,
        "policy_version": policy.version,
        "scope": dict(content.scope),
        "action": content.action,
        "params": dict(content.params),
        "mode": policy.mode,
        "reason_code": content.reason_code,
        "reason": content.reason,
        "evidence": dict(content.evidence),
        "epoch": cause.epoch,
        "sequence": content.sequence,
        "issued_at": cause.time,
        "effective_at": cause.time,
        "expires_at": content.expires_at,
        "on_expiry": content.on_expiry,
        "retry_after_ms": content.retry_after_ms,
        "lease": None,
        "supersedes": content.supersedes,
        "trace_id": None,
        "signature": None,
    }


def _decision_id(policy: Policy, content: Content, cause: Cause) -> str:
    place = (str(cause.partition), str(cause.offset))
    identity = (*content.identity, policy.version, content.action, *place)
    return str(UUID(bytes=blake2b("\x1f".join(identity).encode(), digest_size=16).digest()))


def _params(rule: Rule | None) -> dict[str, Any]:
    if rule is None or rule.rate_per_minute is None:
        return {}
    return {"rate_per_minute": rule.rate_per_minute, "burst": rule.burst}


def _reason_code(rule: Rule | None) -> str:
    if rule is None:
        return "BUDGET_RESTORED"
    return "BUDGET_EXHAUSTED" if rule.at >= 1 else "BUDGET_THRESHOLD"


def _reason(budget: Budget, key: LedgerKey, ledger: Ledger, rule: Rule | None) -> str:
    used = shown_share(ledger.settled, ledger.limit, ledger.unit)
    share = 100 * ledger.settled // ledger.limit if ledger.limit else 100
    verb = "spent" if ledger.unit == "pusd" else "used"
    head = f"{_subject(budget, key)} has {verb} {used} ({share} %) of budget {budget.budget_id}"
    return f"{head} {_within(budget, key)}; {_consequence(budget, rule, ledger)}"


def _subject(budget: Budget, key: LedgerKey) -> str:
    fields = {**budget.where, **scope_fields(key.scope)}
    if fields.keys() == {"tenant_id"}:
        return fields["tenant_id"]
    return ", ".join(f"{name} {value}" for name, value in sorted(fields.items()))


def _within(budget: Budget, key: LedgerKey) -> str:
    if budget.period == "rolling":
        return f"within {budget.rolling}"
    return "in the task" if budget.period == "task" else f"in the {budget.period} {key.period_id}"


def _consequence(budget: Budget, rule: Rule | None, ledger: Ledger) -> str:
    if rule is None:
        return "requests are admitted again"
    until = f"until {utc(ends_at(ledger, budget))}"
    if budget.rolling_us is not None:
        until += " at the latest"
    if rule.action == "rate_limit":
        return f"each admission point admits {rule.rate_per_minute} requests a minute {until}"
    return f"requests are refused {until}"


def _evidence(
    budget: Budget, ledger: Ledger, rule: Rule | None, key: LedgerKey, cause: Cause
) -> dict[str, Any]:
    return {
        "window": key.period_id,
        "observed": ledger.settled,
        "limit": budget.thresholds(ledger.limit)[ledger.rung - 1] if rule else ledger.limit,
        "unit": ledger.unit,
        "offsets": offsets_of(cause),
    }


def offsets_of(cause: Cause) -> list[dict[str, int]]:
    """The place of a decision's cause, as evidence names it."""
    return [{"partition": cause.partition, "offset": cause.offset}]


def _retry_after_ms(rule: Rule | None, ledger: Ledger, time: int) -> int | None:
    if rule is None:
        return None
    if rule.rate_per_minute is not None:
        return max(1, 60_000 // rule.rate_per_minute)
    return max(0, (ledger.period_end - time) // 1000)


def utc(instant: int) -> str:
    """An instant for people, to the second."""
    return datetime.fromtimestamp(instant / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
