"""Decisions told to people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sluice.admission.decision import Decision
from sluice.wire.scopes import ALL_TENANTS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Explained:
    """A decision, whether it acts now, since and until when (µs UTC), and one sentence about it.

    `lifts` says what would end it.
    """

    decision: Decision
    in_force: bool
    sentence: str
    since: int
    until: int | None
    lifts: str


def explain(
    decisions: Iterable[Decision], scope: Mapping[str, str | None], now: int
) -> list[Explained]:
    """Every decision that can meet a request of `scope`, strictest first, shadow ones last.

    A field that `scope` leaves out or null may have any value.
    """
    found = [decision for decision in decisions if _touches(decision, scope)]
    found.sort(key=lambda d: (not d.shadow, d.effect.rank, d.version), reverse=True)
    return [explained(decision, now) for decision in found]


def explained(decision: Decision, now: int) -> Explained:
    """One decision at `now` (µs UTC)."""
    acts = not decision.shadow and decision.effect_at(now) is not None
    scope = ", ".join(f"{name}={value}" for name, value in decision.scope) or ALL_TENANTS
    head = f"{decision.published_action} for {scope}, {_standing(decision, now)}"
    source = f"policy {decision.policy_id} {decision.policy_version}, rule {decision.rule_id}"
    notes = "".join(f"; {note.sentence}" for note in decision.notes)
    sentence = f"{head} ({source}): {decision.reason}{notes}"
    since = decision.starts_at or decision.issued_at
    until = decision.expires_at if decision.expired_effect is None else None
    return Explained(decision, acts, sentence, since, until, _lifts(decision))


def _lifts(decision: Decision) -> str:
    window, observed, limit, unit = decision.evidence
    end = f"its end at {utc(decision.expires_at)}"
    if decision.expired_effect is not None:
        end = f"a newer word of its rule: it does not end with {utc(decision.expires_at)}"
    return f"{end}, or {unit} of {window} back under {limit} (observed {observed})"


def utc(instant: int) -> str:
    """An instant (µs UTC) to the second; one that no calendar has stays a number."""
    try:
        return f"{_EPOCH + timedelta(microseconds=instant):%Y-%m-%d %H:%M:%S UTC}"
    except OverflowError:
        return f"{instant} µs UTC"


def _touches(decision: Decision, scope: Mapping[str, str | None]) -> bool:
    return all(scope.get(name) in (None, value) for name, value in decision.scope)


def _standing(decision: Decision, now: int) -> str:
    if decision.shadow:
        return "in shadow, not obeyed"
    if now < decision.starts_at:
        return f"from {utc(decision.starts_at)}"
    until = utc(decision.expires_at)
    if now < decision.expires_at:
        return f"until {until}"
    effect = decision.expired_effect
    if effect is None:
        return f"expired {until}, no longer obeyed"
    if effect.refuses and effect.stale:
        return f"expired {until}, refuses until renewed"
    if effect.rate is not None and effect.stale:
        return f"expired {until}, admits {effect.rate.rate_per_minute} requests a minute"
    return f"expired {until}, kept in force"
