"""Decisions as an admission point holds them: what each one does now and once it has expired.

Words that this version does not know are taken as the strictest reading, counted and explained;
they never stop the reader.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, NamedTuple

from sluice.admission.caps import NO_CAPS, Caps, caps_of
from sluice.admission.rate import Rate

# From the mildest to the strictest.
ACTIONS = (
    "allow", "allow_with_caps", "rate_limit", "degrade", "queue", "preempt", "isolate", "block",
)  # fmt: skip
RANK = {action: rank for rank, action in enumerate(ACTIONS)}
# Actions that let a request go on if the gateway sees to their conditions.
CONDITIONS = frozenset({"allow_with_caps", "degrade", "queue", "isolate"})
CONTROL_STALE = "CONTROL_STALE"
SCOPE_FIELDS = (
    "tenant_id", "project_id", "end_user_hash", "api_key_hash", "model", "tool_name", "task_id",
    "region", "pool", "priority",
)  # fmt: skip

_ON_EXPIRY = frozenset({"open", "closed", "keep", "safe_limit"})

Version = tuple[int, int]


class Note(NamedTuple):
    """Something in a decision that is not obeyed to the letter: its counter, and a sentence."""

    counter: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What a decision does to the requests of its scope."""

    action: str
    refuses: bool = False
    rate: Rate | None = None
    caps: Caps = NO_CAPS
    stale: bool = False

    @property
    def rank(self) -> tuple[int, bool]:
        """Strictness; of two equal ones that of a decision still valid is the stricter."""
        return RANK[self.action], not self.stale


_BLOCK = Effect("block", refuses=True)
_STALE_BLOCK = Effect("block", refuses=True, stale=True)


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the control topic.

    `effect` counts from `starts_at` until `expires_at` (µs UTC), `expired_effect` after that (None:
    nothing is left). `published_action` is the word on the topic, `scope` the fields that are not
    null in the order of SCOPE_FIELDS.
    """

    key: bytes
    partition: int
    decision_id: str
    policy_id: str
    rule_id: str
    policy_version: str
    scope: tuple[tuple[str, str], ...]
    published_action: str
    mode: str
    reason_code: str
    reason: str
    version: Version
    issued_at: int
    starts_at: int
    expires_at: int
    on_expiry: str
    retry_after_ms: int | None
    effect: Effect
    expired_effect: Effect | None
    notes: tuple[Note, ...]

    @property
    def shadow(self) -> bool:
        """Whether it is only shown, never obeyed."""
        return self.mode == "shadow"

    def effect_at(self, now: int) -> Effect | None:
        """What it does at `now` (µs UTC); None = nothing, before its time or after it."""
        if now < self.starts_at:
            return None
        return self.effect if now < self.expires_at else self.expired_effect


def read_decision(
    key: bytes, partition: int, record: Mapping[str, Any], carries_out: Collection[str] = CONDITIONS
) -> Decision:
    """A Decision record as the point holds it.

    `carries_out` names the conditions that the gateway can see to; a decision that needs another
    one refuses, as the nearest stricter action would.
    """
    effect, action_notes = _effect(record, carries_out)
    expired_effect, expiry_notes = _expired_effect(record, effect)
    scope = record["scope"]
    return Decision(
        key=key,
        partition=partition,
        decision_id=record["decision_id"],
        policy_id=intern(record["policy_id"]),
        rule_id=intern(record["rule_id"]),
        policy_version=intern(record["policy_version"]),
        scope=tuple((name, scope[name]) for name in SCOPE_FIELDS if scope[name] is not None),
        published_action=intern(record["action"]),
        mode=intern(record["mode"]),
        reason_code=intern(record["reason_code"]),
        reason=record["reason"],
        version=(record["epoch"], record["sequence"]),
        issued_at=record["issued_at"],
        starts_at=_starts_at(record),
        expires_at=record["expires_at"],
        on_expiry=intern(record["on_expiry"]),
        retry_after_ms=record["retry_after_ms"],
        effect=effect,
        expired_effect=expired_effect,
        notes=(*action_notes, *expiry_notes, *_mode_notes(record)),
    )


def _starts_at(record: Mapping[str, Any]) -> int:
    # A decision without a delay begins at once, also where this machine's clock is behind the
    # broker's.
    delayed = record["effective_at"] > record["issued_at"]
    return int(record["effective_at"]) if delayed else 0


def _effect(
    record: Mapping[str, Any], carries_out: Collection[str]
) -> tuple[Effect, tuple[Note, ...]]:
    action, params = record["action"], record["params"]
    if action not in RANK:
        return _BLOCK, (Note("unknown_action", f"action {action!r} is unknown here, so it blocks"),)
    rate = _rate_of(params)
    if action == "rate_limit" and rate is None:
        return _BLOCK, (Note("unusable_rate", "its rate limit has no usable rate, so it blocks"),)
    if action in CONDITIONS and action not in carries_out:
        sentence = f"this gateway does not carry out {action}, so it blocks"
        return _BLOCK, (Note("not_carried_out", sentence),)
    refuses = action in ("block", "preempt")
    limit = rate if action == "rate_limit" else None
    return Effect(intern(action), refuses, limit, caps_of(params)), ()


def _rate_of(params: Mapping[str, Any]) -> Rate | None:
    per_minute, burst = params["rate_per_minute"], params["burst"]
    if per_minute is None or per_minute < 1:
        return None
    if burst is None:
        # One second's worth.
        burst = max(1, per_minute // 60)
    return Rate(per_minute, burst) if burst >= 1 else None


def _expired_effect(
    record: Mapping[str, Any], effect: Effect
) -> tuple[Effect | None, tuple[Note, ...]]:
    on_expiry = record["on_expiry"]
    if on_expiry not in _ON_EXPIRY:
        sentence = f"on_expiry {on_expiry!r} is unknown here, so it refuses once expired"
        return _STALE_BLOCK, (Note("unknown_on_expiry", sentence),)
    # An `allow` tells that a limit was lifted; when that news is old, nothing is left to enforce.
    if on_expiry == "open" or effect.action == "allow":
        return None, ()
    if on_expiry == "keep":
        return effect, ()
    rate = _rate_of(record["params"])
    if on_expiry == "closed" or rate is None:
        return _STALE_BLOCK, ()
    return Effect("rate_limit", rate=rate, caps=effect.caps, stale=True), ()


def _mode_notes(record: Mapping[str, Any]) -> tuple[Note, ...]:
    mode = record["mode"]
    if mode in ("enforce", "shadow"):
        return ()
    return (Note("unknown_mode", f"mode {mode!r} is unknown here, so it is enforced"),)
