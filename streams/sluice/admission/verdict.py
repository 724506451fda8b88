"""The question that a gateway asks and the answer that it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from sluice.admission.caps import NO_CAPS, Caps, merged
from sluice.admission.control_state import Match
from sluice.admission.decision import CONTROL_STALE, Effect, Evidence
from sluice.admission.rate import Limit, Rate
from sluice.admission.sentences import utc
from sluice.errors import SluiceError
from sluice.wire.scopes import scope_text

# Combinations of effects whose sum is remembered; beyond it they are put together anew.
MAX_TOGETHER = 10_000


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """One request or tool call before it runs; identities as the gateway resolved them.

    A decision about a field matches only a request that gives the field: None matches nothing but
    decisions about anything. `estimates` says what it will take at most in units of budgets, where
    the other fields do not tell. (`request_id`, `attempt`) names it: it is reserved and charged
    once, however often it is asked for. Nobody waits for it beyond `deadline_at` (µs UTC).
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
    input_tokens: int | None = None
    agent_name: str | None = None
    workflow_name: str | None = None
    estimates: Mapping[str, int] = field(default_factory=dict, hash=False)
    request_id: str | None = None
    attempt: int = 1
    deadline_at: int | None = None


def tool_request(request: AdmissionRequest, tool_name: str,
                 estimated_cost_pusd: int | None = None) -> AdmissionRequest:  # fmt: skip
    """The question about a tool call under the identities of another request."""
    return replace(
        request, tool_name=tool_name, model=None, estimated_cost_pusd=estimated_cost_pusd,
        max_output_tokens=None, input_tokens=None, estimates={}, request_id=None, attempt=1,
    )  # fmt: skip


class Violation(NamedTuple):
    """A budget that has no room for a request; amounts in `unit`, `resets_at` in µs UTC.

    `left`: what this process may still take of its lease; None = it has none.
    """

    policy_id: str
    policy_version: str
    budget_id: str
    scope: str
    period: str
    unit: str
    limit: int
    needed: int
    left: int | None
    resets_at: int | None


# Not frozen: that would be half of what an answer costs. Nobody changes one.
@dataclass(slots=True)
class Verdict:
    """Whether a request may go on, why, and under which conditions.

    `action` is what is done to this request, in the words of decisions; with `allowed` the gateway
    must hold the request to `caps`. `staleness_us`: how long the longest silent source partition
    was not heard; None before the control topic was found. `violated` names the budgets that have
    no room; `rule_id`, `scope` (as BudgetRow.scope), `evidence` and `rate` are the decision's.
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
    violated: tuple[Violation, ...] = ()
    rule_id: str | None = field(default=None, compare=False)
    scope: str | None = field(default=None, compare=False)
    evidence: Evidence | None = field(default=None, compare=False)
    rate: Rate | None = field(default=None, compare=False)


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
    return max(matches, key=_strictness)


def _strictness(match: Match) -> tuple[tuple[int, bool], int]:
    return match.effect.rank, match.decision.expires_at


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
    return [
        Limit(decision.key, effect.rate) for decision, effect in matches if effect.rate is not None
    ]


class Together(NamedTuple):
    """What some effects come to, whatever decisions they are of.

    `lets_all`: every request may go on. `may_refuse`: some refuse or deny tools; `drops` a share,
    `limits` a rate. `strictest`: where among the effects those of the highest rank stand.
    """

    effects: list[Effect]
    lets_all: bool
    may_refuse: bool
    drops: bool
    limits: bool
    strictest: tuple[int, ...]
    caps: Caps


_known_together: dict[tuple[int, ...], Together] = {}


def together(matches: Sequence[Match]) -> Together:
    """What the matches come to, rates and shares aside."""
    # Decisions that say the same share their effect, so few combinations come up; their list
    # in the result keeps the ids their own.
    key = tuple([id(match[1]) for match in matches])
    known = _known_together.get(key)
    if known is None:
        if len(_known_together) >= MAX_TOGETHER:
            _known_together.clear()
        known = _known_together[key] = _combined([effect for _, effect in matches])
    return known


def _combined(effects: list[Effect]) -> Together:
    ordered = sorted(effects, key=attrgetter("rank"), reverse=True)
    return Together(
        effects,
        lets_all=all(effect.lets_all for effect in effects),
        may_refuse=any(effect.refuses or effect.caps.tool_denylist for effect in effects),
        drops=any(effect.drop_ppm for effect in effects),
        limits=any(effect.rate is not None for effect in effects),
        strictest=tuple(n for n, effect in enumerate(effects) if effect.rank == ordered[0].rank),
        caps=merged([effect.caps for effect in ordered if effect.caps is not NO_CAPS]),
    )


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
        rule_id=match.decision.rule_id,
        scope=_scope_text(match.decision.scope),
        evidence=match.decision.evidence,
        rate=match.effect.rate,
    )


def admitted(matches: Sequence[Match], combined: Together, staleness_us: int | None) -> Verdict:
    """The answer where decisions are in force and none refuses."""
    named = matches[combined.strictest[0]]
    if len(combined.strictest) > 1:
        named = strictest([matches[index] for index in combined.strictest])
    decision, effect = named
    return Verdict(
        True,
        effect.action,
        CONTROL_STALE if effect.stale else decision.reason_code,
        _reason(named),
        decision.decision_id,
        decision.policy_id,
        decision.policy_version,
        None,
        combined.caps,
        staleness_us,
        (),
        decision.rule_id,
    )


_scope_text = lru_cache(maxsize=4096)(scope_text)


def _reason(match: Match) -> str:
    decision = match.decision
    if match.effect.stale:
        return (
            f"the decision of policy {decision.policy_id}, rule {decision.rule_id}, expired at "
            f"{utc(decision.expires_at)} and was not renewed; then it is {decision.on_expiry}: "
            f"{decision.reason}"
        )
    if not decision.notes:
        return decision.reason
    return "; ".join((decision.reason, *(note.sentence for note in decision.notes)))


def _until_expiry(match: Match, now: int) -> int | None:
    """When a refused client may try again: as the decision says, but not beyond its end."""
    said, left_ms = match.decision.retry_after_ms, (match.decision.expires_at - now) // 1000
    if left_ms <= 0:
        return said
    return left_ms if said is None else min(said, left_ms)
