"""Refusals of hard budgets in words: which budget, why, and when to try again."""

from __future__ import annotations

from collections.abc import Sequence

from sluice.admission.decision import CONTROL_STALE
from sluice.admission.leases import Doubt, Lack
from sluice.admission.sentences import utc
from sluice.admission.verdict import Verdict, Violation

LEASE_EXHAUSTED = "LEASE_EXHAUSTED"
# Reason code of a situation in which a budget's limit is not known.
CODES = {
    "control_stale": CONTROL_STALE,
    "lease_gone": CONTROL_STALE,
    "cold_start": LEASE_EXHAUSTED,
    "publisher_down": "PUBLISHER_DOWN",
    "unknown_scope": "UNKNOWN_SCOPE",
    "no_price": "NO_PRICE",
}
_WHY = {
    "control_stale": "its lease has no room and the control topic is silent",
    "lease_gone": "its lease has expired and was not renewed",
    "cold_start": "no lease on it has arrived yet",
    "publisher_down": "usage cannot be published, so nothing could be charged",
}


def exhausted(lacks: Sequence[Lack], staleness_us: int | None) -> Verdict:
    """The refusal of a request for which leases have too little room."""
    first = lacks[0]
    violated = tuple(map(_violation, lacks))
    reason = _sentence(first, violated[0]) + _held_back(first)
    return _refusal(LEASE_EXHAUSTED, reason, first, violated, staleness_us)


def unknown(lack: Lack, situation: str, staleness_us: int | None) -> Verdict:
    """The refusal where a budget that has no usable lease is closed in this situation."""
    violated = (_violation(lack),)
    reason = f"{_named(lack)} is closed: {_WHY[situation]}"
    return _refusal(CODES[situation], reason, lack, violated, staleness_us)


def doubtful(doubt: Doubt, staleness_us: int | None) -> Verdict:
    """The refusal where a budget cannot be held against a request at all."""
    rule = doubt.rule
    why = doubt.detail or _WHY[doubt.situation]
    return Verdict(
        False, "block", CODES[doubt.situation],
        f"budget {rule.budget_id} of policy {rule.policy_id} is closed: {why}",
        policy_id=rule.policy_id, policy_version=rule.policy_version, staleness_us=staleness_us,
    )  # fmt: skip


def _refusal(
    code: str, reason: str, lack: Lack, violated: tuple[Violation, ...], staleness_us: int | None
) -> Verdict:
    rule = lack.claim.rule
    return Verdict(
        False, "block", code, reason,
        policy_id=rule.policy_id, policy_version=rule.policy_version,
        retry_after_ms=rule.refresh_after_ms, staleness_us=staleness_us, violated=violated,
    )  # fmt: skip


def _violation(lack: Lack) -> Violation:
    rule, key, span, _, amount = lack.claim
    return Violation(
        rule.policy_id, rule.policy_version, rule.budget_id, key.scope, key.period_id, key.unit,
        rule.limit_of(key.scope), amount, lack.room, span.end,
    )  # fmt: skip


def _sentence(lack: Lack, violated: Violation) -> str:
    left = "no lease" if violated.left is None else f"{max(0, violated.left)} left of its lease"
    resets = "" if violated.resets_at is None else f", its period ends {utc(violated.resets_at)}"
    return (
        f"{_named(lack)} has {left} here and the request needs {violated.needed} "
        f"{violated.unit} (limit {violated.limit}{resets})"
    )


def _held_back(lack: Lack) -> str:
    """Which budget keeps the grants small, where its grantor says it is another one."""
    grant = lack.account.grant or {}
    by = grant.get("limited_by")
    return "" if by in (None, lack.claim.key.budget_id) else f"; budget {by} has no more to give it"


def _named(lack: Lack) -> str:
    rule, key = lack.claim.rule, lack.claim.key
    return f"budget {rule.budget_id} of policy {rule.policy_id} for {rule.whom(key.scope)}"
