"""The question that a gateway asks and the answer that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.admission.caps import NO_CAPS, Caps, merged
from sluice.admission.control_state import Match
from sluice.admission.decision import CONTROL_STALE
from sluice.admission.rate import Limit
from sluice.admission.sentences import utc
from sluice.errors import SluiceError


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """One request or tool call before it runs; identities as the gateway resolved them.

    A decision about a field matches only a request that gives the field: None matches nothing but
    decisions about anything.
    """

    tenant_id: str
    project_id: str = ""
    model: str | None = None
    tool_name: str | None = None
    task_id: str | None = None
    end_user_hash: str | None = None
    api_key_hash: str | None = None
    region: str | None = None
    pool: str | None = None
    priority: str = "standard"
    estimated_cost_pusd: int | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may go on, why, and under which conditions.

    `action` is what is done to this request, in the words of decisions; with `allowed` the gateway
    must hold the request to `caps`. `staleness_us`: how long the longest silent source partition
    was not heard; None before the control topic was found.
    """

    allowed: bool
    action: str
    reason_code: str | None
    reason: str
    decision_id: str | None = None
    policy_id: str | None = None
    policy_version: str | None = None
    retry_after_ms: int | None = None
    caps: Caps = NO_CAPS
    staleness_us: int | None = None


class Refused(SluiceError):
    """Admission said no; `verdict` says why and when to try again."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def unrestricted(staleness_us: int | None) -> Verdict:
    """The answer where no decision is in force."""
    return Verdict(
        True, "allow", None, "no decision restricts this request", staleness_us=staleness_us
    )


def unread(*, allowed: bool, staleness_us: int | None) -> Verdict:
    """The answer of a point that has not read the control topic yet."""
    then = "admits" if allowed else "refuses"
    reason = f"the control topic has not been read yet, and until then this point {then}"
    action, retry_after_ms = ("allow", None) if allowed else ("block", 1000)
    return Verdict(
        allowed, action, CONTROL_STALE, reason,
        retry_after_ms=retry_after_ms, staleness_us=staleness_us,
    )  # fmt: skip


def strictest(matches: Sequence[Match]) -> Match:
    """The match to name: the strictest action, then the one that lasts longest."""
    return max(matches, key=lambda match: (match.effect.rank, match.decision.expires_at))


def refusing(matches: Sequence[Match], tool_name: str | None) -> Match | None:
    """The strictest match that refuses whatever the rates say; None if there is none."""
    found = [
        match
        for match in matches
        if match.effect.refuses or tool_name in match.effect.caps.tool_denylist
    ]
    return strictest(found) if found else None


def limits(matches: Sequence[Match]) -> list[Limit]:
    """The rate limits among the matches."""
    return [Limit(m.decision.key, m.effect.rate) for m in matches if m.effect.rate is not None]


def refused(
    match: Match, now: int, staleness_us: int | None, wait_us: int | None = None
) -> Verdict:
    """The answer of a match that refuses at `now`; `wait_us`: until its bucket has a token."""
    action = match.effect.action if wait_us is not None or match.effect.refuses else "block"
    return Verdict(
        allowed=False,
        action=action,
        reason_code=CONTROL_STALE if match.effect.stale else match.decision.reason_code,
        reason=_reason(match),
        decision_id=match.decision.decision_id,
        policy_id=match.decision.policy_id,
        policy_version=match.decision.policy_version,
        retry_after_ms=_until_expiry(match, now) if wait_us is None else -(-wait_us // 1000),
        staleness_us=staleness_us,
    )


def admitted(matches: Sequence[Match], staleness_us: int | None) -> Verdict:
    """The answer where decisions are in force and none refuses."""
    ordered = sorted(matches, key=lambda match: match.effect.rank, reverse=True)
    named = strictest(ordered)
    return Verdict(
        allowed=True,
        action=named.effect.action,
        reason_code=CONTROL_STALE if named.effect.stale else named.decision.reason_code,
        reason=_reason(named),
        decision_id=named.decision.decision_id,
        policy_id=named.decision.policy_id,
        policy_version=named.decision.policy_version,
        caps=merged([match.effect.caps for match in ordered]),
        staleness_us=staleness_us,
    )


def _reason(match: Match) -> str:
    decision = match.decision
    if match.effect.stale:
        return (
            f"the decision of policy {decision.policy_id}, rule {decision.rule_id}, expired at "
            f"{utc(decision.expires_at)} and was not renewed; then it is {decision.on_expiry}: "
            f"{decision.reason}"
        )
    return "; ".join((decision.reason, *(note.sentence for note in decision.notes)))


def _until_expiry(match: Match, now: int) -> int | None:
    """When a refused client may try again: as the decision says, but not beyond its end."""
    said, left_ms = match.decision.retry_after_ms, (match.decision.expires_at - now) // 1000
    if left_ms <= 0:
        return said
    return left_ms if said is None else min(said, left_ms)
