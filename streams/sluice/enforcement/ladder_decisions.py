"""Decisions that ladders lead to: one per priority, each with its reason and its numbers.

A decision is renewed under its own id before it expires, as long as its rung stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sluice.enforcement.decisions import (
    ALLOW_US,
    Cause,
    Content,
    decision_key,
    offsets_of,
    record_of,
    utc,
)
from sluice.enforcement.ladder import OK, Asked, Rung, Standing, Steps, rung_for
from sluice.enforcement.ladder_sentences import CODES, consequence, sentence
from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_ladder import PRIORITIES, Priority, Section
from sluice.enforcement.signals.signal import Signal
from sluice.wire.scopes import scope_text

Scope = tuple[tuple[str, str], ...]

_SECOND_US = 1_000_000
_EMPTY = {"window": "", "observed": 0, "limit": 0, "unit": "ppm"}


class Moved(NamedTuple):
    """A scope whose rung changed, or whose decisions are due again (`before` equals `after`).

    `scope` has its fields in order; `wanted` says what the signals asked for at that time,
    `rule_id` which rule led to where the scope stands, and `rate_per_minute` is the rate of a rung
    whose rate moves (0 = its own).
    """

    section: Section
    steps: Steps
    scope: Scope
    before: int
    after: int
    wanted: Asked
    rule_id: str
    rate_per_minute: int = 0


class Published(NamedTuple):
    """A message for the control topic; without a `record` the decision `lifted` is over."""

    key: bytes
    record: dict[str, Any] | None
    lifted: str | None = None


def decisions(
    policy: Policy, moved: Moved, standing: Standing, cause: Cause
) -> Iterator[Published]:
    """The decisions of every priority for which something changed, or is to be said again.

    `standing` learns their ids.
    """
    section, steps = moved.section, moved.steps
    for priority in PRIORITIES:
        before = rung_for(steps, section.ceilings, moved.before, priority)
        after = rung_for(steps, section.ceilings, moved.after, priority)
        renewed = before == after
        if renewed and after == OK:
            continue
        rung = after.at_rate(moved.rate_per_minute)
        content = _content(policy, moved, priority, rung, standing, cause)
        record = record_of(policy, cause, content)
        if renewed:
            kept = standing.decisions.get(priority, record["decision_id"])
            record |= {"decision_id": kept, "supersedes": None}
        if after == OK:
            standing.decisions.pop(priority, None)
        else:
            standing.decisions[priority] = record["decision_id"]
        yield Published(_key(policy, section, moved.scope, priority), record)


def withdrawn(
    policy: Policy, section: Section, scope: Scope, standing: Standing
) -> Iterator[Published]:
    """Tombstones of a scope's standing decisions, for a policy that no longer has the section."""
    for priority in sorted(standing.decisions):
        lifted = standing.decisions[priority]
        yield Published(_key(policy, section, scope, priority), None, lifted)


def _key(policy: Policy, section: Section, scope: Scope, priority: str) -> bytes:
    return decision_key(policy, section.name, scope_text((*scope, ("priority", priority))))


def _content(
    policy: Policy, moved: Moved, priority: Priority, rung: Rung, standing: Standing, cause: Cause
) -> Content:
    section, reason = moved.section, moved.wanted.why(moved.after)
    signal = reason.signal if reason else None
    ok = rung == OK
    lasts_us = ALLOW_US if ok else section.expires_after_s * _SECOND_US
    eased = moved.after < moved.before
    saw_less = f"what rule {moved.rule_id} saw has eased"
    what = saw_less if eased or signal is None else sentence(signal)
    who = ", ".join(f"{name} {value}" for name, value in moved.scope)
    until = f"until {utc(cause.time + lasts_us)} or later"
    return Content(
        rule_id=section.name,
        scope={**dict(moved.scope), "priority": priority},
        action=rung.action,
        params=rung.params,
        reason_code=_code(signal, eased=eased),
        reason=f"{who}: {what}; {priority} requests are {consequence(rung)}"
        + ("" if ok else f" {until}"),
        evidence=_evidence(signal, cause),
        sequence=cause.offset,
        expires_at=cause.time + lasts_us,
        on_expiry="open" if ok else section.on_expiry,
        retry_after_ms=_retry_after_ms(rung, section),
        supersedes=standing.decisions.get(priority),
        identity=(policy.policy_id, section.name, scope_text(moved.scope), priority),
    )


def _code(signal: Signal | None, *, eased: bool) -> str:
    return "SIGNAL_EASED" if eased or signal is None else CODES[signal.name]


def _evidence(signal: Signal | None, cause: Cause) -> Mapping[str, Any]:
    if signal is None:
        return {**_EMPTY, "offsets": offsets_of(cause)}
    return {
        "window": signal.window,
        "observed": signal.value,
        "limit": signal.threshold,
        "unit": signal.unit,
        "offsets": offsets_of(cause),
    }


def _retry_after_ms(rung: Rung, section: Section) -> int | None:
    if rung == OK:
        return None
    params = rung.params
    if "rate_per_minute" in params:
        return max(1, 60_000 // int(params["rate_per_minute"]))
    return int(params["cooldown_ms"]) if "cooldown_ms" in params else 1000 * section.dwell_s
