"""Decisions as an admission point holds them: what each one does now and once it has expired.

Words that this version does not know are taken as the strictest reading, counted and explained;
they never stop the reader.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
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

# Sentences of decisions that are told apart; beyond it they are read anew.
MAX_WORDS = 10_000

# The lists first.
_PARAMS = itemgetter(
    "fallback_models", "tool_denylist", "rate_per_minute", "burst", "max_tokens",
    "queue_timeout_ms", "queue_depth", "priority", "pool", "drop_ratio_ppm",
    "max_steps_remaining", "verify", "boundary",
)  # fmt: skip
_ON_EXPIRY = frozenset({"open", "closed", "keep", "safe_limit"})

Version = tuple[int, int]


class Note(NamedTuple):
    """Something in a decision that is not obeyed to the letter: its counter, and a sentence."""

    counter: str
    sentence: str


class Evidence(NamedTuple):
    """The numbers behind a decision, in `unit`; `window` as BudgetRow.period."""

    window: str
    observed: int
    limit: int
    unit: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What a decision does to the requests of its scope.

    `rate` refuses what is above it, `pace` lets a queue through, `drop_ppm` is the share of
    requests to refuse, parts per million.
    """

    action: str
    refuses: bool = False
    rate: Rate | None = None
    pace: Rate | None = None
    drop_ppm: int = 0
    caps: Caps = NO_CAPS
    stale: bool = False
    # Strictness; of two equal ones that of a decision still valid is the stricter.
    rank: tuple[int, bool] = field(init=False, compare=False)
    # Whether every request may go on under it.
    lets_all: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        may_stop = self.refuses or self.rate or self.drop_ppm or self.caps.tool_denylist
        object.__setattr__(self, "rank", (RANK[self.action], not self.stale))
        object.__setattr__(self, "lets_all", not may_stop)


_BLOCK = Effect("block", refuses=True)
_STALE_BLOCK = Effect("block", refuses=True, stale=True)


# Not frozen: that would double the cost of reading a control topic. Nobody changes one.
@dataclass(slots=True)
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
    evidence: Evidence

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
    words = _words_of(record, frozenset(carries_out))
    scope = record["scope"]
    return Decision(
        key=key,
        partition=partition,
        decision_id=record["decision_id"],
        policy_id=intern(record["policy_id"]),
        rule_id=intern(record["rule_id"]),
        policy_version=intern(record["policy_version"]),
        # Interned: what many decisions are about stays near for comparing.
        scope=tuple(
            [(name, intern(scope[name])) for name in SCOPE_FIELDS if scope[name] is not None]
        ),
        published_action=intern(record["action"]),
        mode=intern(record["mode"]),
        reason_code=intern(record["reason_code"]),
        reason=record["reason"],
        version=(record["epoch"], record["sequence"]),
        issued_at=record["issued_at"],
        starts_at=_starts_at(record),
        expires_at=record["expires_at"],
        on_expiry=intern(record["on_expiry"]),
        retry_after_ms=_first(record["retry_after_ms"], record["params"]["cooldown_ms"]),
        effect=words.effect,
        expired_effect=words.expired_effect,
        notes=words.notes,
        evidence=_evidence(record["evidence"]),
    )


def _evidence(record: Mapping[str, Any]) -> Evidence:
    window, unit = intern(record["window"]), intern(record["unit"])
    return Evidence(window, record["observed"], record["limit"], unit)


class _Words(NamedTuple):
    """What the words of a decision mean; decisions that say the same share it."""

    effect: Effect
    expired_effect: Effect | None
    notes: tuple[Note, ...]


def _words_of(record: Mapping[str, Any], carries_out: frozenset[str]) -> _Words:
    params = _PARAMS(record["params"])
    said = (record["action"], record["mode"], record["on_expiry"], carries_out, *params[2:],
            *map(tuple, params[:2]))  # fmt: skip
    words = _known_words.get(said)
    if words is None:
        if len(_known_words) >= MAX_WORDS:
            _known_words.clear()
        words = _known_words[said] = _read_words(record, carries_out)
    return words


def _read_words(record: Mapping[str, Any], carries_out: Collection[str]) -> _Words:
    effect, action_notes = _effect(record, carries_out)
    expired_effect, expiry_notes = _expired_effect(record, effect)
    return _Words(effect, expired_effect, (*action_notes, *expiry_notes, *_mode_notes(record)))


_known_words: dict[tuple[Any, ...], _Words] = {}


def _first(said: int | None, otherwise: int | None) -> int | None:
    return otherwise if said is None else said


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
    pace = rate if action == "queue" else None
    drop_ppm = params["drop_ratio_ppm"] or 0
    return Effect(intern(action), refuses, limit, pace, drop_ppm, caps_of(params)), ()


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
