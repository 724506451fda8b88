"""The ladder of one scope: rungs climbed when a signal persists, left one at a time when it eases.

Every rung has its own clocks, so a higher signal never stands lower than a smaller one would: rung
r is reached when the signals have asked for r or more without a break for `hold`; it is left when
no signal has supported it for `keep`, and `dwell` after the step before it. Between two looks a
signal counts as what it was at the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from sluice.enforcement.policy_ladder import PRIORITIES, RANK, Ceilings, Priority, Section
from sluice.enforcement.signals.signal import Signal

_SECOND_US = 1_000_000


class Rung(NamedTuple):
    """What is done on a rung, with which parameters, to which priorities."""

    action: str
    params: Mapping[str, Any]
    priorities: tuple[Priority, ...]


OK = Rung("allow", MappingProxyType({}), PRIORITIES)


class Steps(NamedTuple):
    """The rungs of a ladder, mildest first and without `ok`; `of` has each rule's rung from 1."""

    rungs: tuple[Rung, ...]
    of: Mapping[str, int]


class Pace(NamedTuple):
    """How long a signal persists before a rung is reached, and eases before one is left, µs."""

    hold_us: int
    keep_us: int
    dwell_us: int


class Standing(msgspec.Struct, array_like=True):
    """Where a scope stands; times in µs.

    `risen[r]` is since when rung r + 1 has been asked for, `supported[r]` when it was last
    supported, `stepped_at` the last step down. `rule_id` is the rule that led here, and
    `renew_at` when its decisions have to be published again.
    """

    level: int = 0
    stepped_at: int = 0
    risen: list[int] = msgspec.field(default_factory=list)
    supported: list[int] = msgspec.field(default_factory=list)
    rule_id: str = ""
    renew_at: int = 0
    decisions: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def at_rest(self) -> bool:
        """Whether nothing stands and nothing is on its way."""
        return not self.level and not self.risen


class Reason(NamedTuple):
    """A rule and what its signal was when it asked for the rule's rung."""

    level: int
    rule_id: str
    signal: Signal


class Asked(NamedTuple):
    """What the signals ask for: a rung to reach, a rung to stay on, and why, mildest first."""

    up: int
    stay: int
    reasons: tuple[Reason, ...] = ()

    def why(self, level: int) -> Reason | None:
        """The strongest reason for a rung: of those up to it, else of those beyond; None = none."""
        below = [reason for reason in self.reasons if reason.level <= level]
        return below[-1] if below else next(iter(self.reasons), None)


def steps_of(section: Section, scope: tuple[str, ...]) -> Steps:
    """The rungs of a section for scopes of some fields; equal actions share a rung."""
    rules = [rule for rule in section.rules if rule.kind.scope == scope]
    rules.sort(key=lambda rule: (RANK[rule.action], -(rule.rate_per_minute or 0)))
    rungs: list[Rung] = []
    of = {}
    for rule in rules:
        rung = Rung(rule.action, rule.said(), rule.priorities)
        if not rungs or rungs[-1] != rung:
            rungs.append(rung)
        of[rule.rule_id] = len(rungs)
    return Steps(tuple(rungs), of)


def pace_of(section: Section) -> Pace:
    """The pace of a section."""
    return Pace(
        section.hold_s * _SECOND_US, section.keep_s * _SECOND_US, section.dwell_s * _SECOND_US
    )


def rung_for(steps: Steps, ceilings: Ceilings, level: int, priority: Priority) -> Rung:
    """What holds for a priority on a rung: the highest one below it that it can meet."""
    most = RANK[getattr(ceilings, priority)]
    rung: Rung
    for rung in reversed(steps.rungs[:level]):
        if priority in rung.priorities and RANK[rung.action] <= most:
            return rung
    return OK


def asked(steps: Steps, section: Section, signals: Iterable[tuple[str, Signal | None]]) -> Asked:
    """What signals, by the rule that they belong to, ask of a ladder."""
    share = section.exit.as_integer_ratio()
    known = [(steps.of[rule_id], rule_id, s) for rule_id, s in signals if s is not None]
    reasons = sorted((Reason(*each) for each in known if each[2].reached), key=lambda r: r.level)
    stay = max((level for level, _, s in known if s.reached or s.holds(*share)), default=0)
    return Asked(reasons[-1].level if reasons else 0, stay, tuple(reasons))


def step(standing: Standing, wanted: Asked, pace: Pace, time: int) -> bool:
    """Move a scope at `time` (µs, never going back); True where its rung changed."""
    up, stay = wanted.up, max(wanted.up, wanted.stay)
    standing.risen = standing.risen[:up] + [time] * (up - len(standing.risen))
    standing.supported = [time if rung < stay else at for rung, at in enumerate(standing.supported)]
    high = sum(time - since >= pace.hold_us for since in standing.risen)
    if high > standing.level:
        standing.level, standing.supported = high, [time] * high
        reason = wanted.why(high)
        standing.rule_id = reason.rule_id if reason else ""
        return True
    return stay < standing.level and _ease(standing, pace, time)


def next_due(standing: Standing, pace: Pace) -> int | None:
    """When a scope can move although nothing is observed (µs), or None while at rest."""
    dues = [since + pace.hold_us for since in standing.risen[standing.level :]]
    if standing.level:
        dues.append(next_down(standing, pace))
    return min(dues, default=None)


def next_down(standing: Standing, pace: Pace) -> int:
    """When a scope above rest goes down one rung if nothing supports it any more (µs)."""
    return max(standing.supported[-1] + pace.keep_us, standing.stepped_at + pace.dwell_us)


def stricter(*rungs: Rung) -> Rung:
    """The strictest of what several ladders say about one request."""
    return max(rungs, key=lambda rung: RANK[rung.action])


def _ease(standing: Standing, pace: Pace, time: int) -> bool:
    if next_down(standing, pace) > time:
        return False
    standing.level -= 1
    standing.supported.pop()
    standing.stepped_at = time
    return True
