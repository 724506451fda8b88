"""Watchers of one partition: usage in, changes of ladders out, at borders of broker time.

Every five seconds of the partition's time the scopes that were active, and those that do not rest,
are looked at; forecasts and jitter once a minute. A look comes before the event whose time crosses
the border, so neither chunk borders nor restarts change anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sluice.enforcement import ladder
from sluice.enforcement.ladder import Standing
from sluice.enforcement.ladder_decisions import Moved, Published, withdrawn
from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_ladder import Section
from sluice.enforcement.rings import Scope
from sluice.enforcement.watch_look import Look, Signals, Watch
from sluice.enforcement.watch_run import Run, Watched, run_of, watched
from sluice.enforcement.watch_signals import Facts
from sluice.enforcement.watch_tables import Tables
from sluice.wire.column_types import Ints

LOOK_US = 5_000_000
SWEEP_US = 60_000_000
HEADER, STANDING = b"h", b"s"

# Policy, section, and the fields of a scope; the values of these fields name the scope.
Group = tuple[str, str, tuple[str, ...]]

_encode = msgspec.msgpack.Encoder().encode
_standing = msgspec.msgpack.Decoder(Standing).decode
_key = msgspec.msgpack.Decoder(tuple[Group, Scope]).decode


class Header(msgspec.Struct, array_like=True):
    """When scopes were last looked at, and last swept (µs of broker time)."""

    looked_at: int = 0
    swept_at: int = 0


class Change(NamedTuple):
    """A ladder that moved, or whose decisions are due again.

    `ladder_decisions.decisions` makes the messages of it, in the order of the changes, and notes
    their ids in `standing` before the rows that changed are taken.
    """

    policy: Policy
    moved: Moved
    standing: Standing


class Watchers:
    """State of one partition's watchers; `facts` is asked for budgets and tasks at each look.

    They may come later than the state, but before the first policy that is watched for.
    """

    def __init__(self, facts: Facts | None = None) -> None:
        self.facts = facts
        self._tables = Tables()
        self._header = Header()
        self._standings: dict[Group, dict[Scope, Standing]] = {}
        self._watches: list[Watch] = []
        self._pending: list[Watched] = []
        self._changed: set[tuple[Group, Scope]] = set()
        self._looked = False

    # ---- policies

    def use(self, policies: Iterable[Policy]) -> None:
        """Watch for these policies from now on; what stands is kept."""
        self._flush()
        self._watches = [
            Watch(policy, section, fields)
            for policy in policies
            for section in _sections(policy)
            for fields in sorted({rule.kind.scope for rule in section.rules})
        ]
        rules = [rule for watch in self._watches for rule in watch.rules]
        self._tables.wanted = frozenset(rule.signal for rule in rules)

    def begin(self, time: int) -> None:
        """A policy comes into force at `time` (µs): where none was, looks begin at the next border.

        Not at the next event: usage of this very second may have been counted by then.
        """
        if time // LOOK_US > self._header.looked_at // LOOK_US:
            self._header.looked_at, self._looked = time, True

    def switch(self, before: Policy, after: Policy | None) -> list[Published]:
        """End what stands on ladders of `before` that `after` (None: taken out) does not have so.

        What stands on the others is said again at the next look, in the name of the version that
        is in force then. `use` follows with everything that is in force.
        """
        kept = _sections(after) if after is not None and after.mode == before.mode else []
        ended = [section for section in _sections(before) if section not in kept]
        self._renew(before.policy_id, {section.name for section in kept})
        return [
            message
            for section in ended
            for group in sorted(self._standings)
            if group[:2] == (before.policy_id, section.name)
            for scope in sorted(self._standings[group])
            for message in withdrawn(
                before, section, _pairs(group, scope), self._take(group, scope)
            )
        ]

    def _renew(self, policy_id: str, sections: Collection[str]) -> None:
        for group, standings in self._standings.items():
            if group[0] == policy_id and group[1] in sections:
                for scope, standing in standings.items():
                    standing.renew_at = 0
                    self._changed.add((group, scope))

    def forget_terms(self) -> None:
        """Limits of budgets changed although no policy was switched."""
        self._watches = [Watch(w.policy, w.section, w.fields) for w in self._watches]

    # ---- usage

    @property
    def idle(self) -> bool:
        """Whether no policy in force has a ladder, so that nothing is observed."""
        return not self._watches

    def observe(self, event: Mapping[str, Any], cost_pusd: int | None, time: int) -> None:
        """Take a usage event at the partition's broker time (µs); `at(time)` comes before it."""
        found = None if self.idle else watched(event, cost_pusd, time)
        if found is not None:
            self._pending.append(found)

    def observe_run(self, run: Run) -> list[tuple[int, Change]]:
        """Take events at once; a change comes with the place of the event that crossed the border.

        The facts have to answer as of that event: where they move within a run, cut it at `looks`.
        """
        if self.idle:
            return []
        self._flush()
        borders = self.looks(run.time)
        changes = []
        for begin, end in pairwise(sorted({0, *borders, len(run.time)})):
            if begin in borders:
                changes += [(begin, change) for change in self.at(int(run.time[begin]))]
            self._tables.add(run.part(begin, end))
        return changes

    def looks(self, time: Ints) -> list[int]:
        """Places of the events that cross a border of `LOOK_US`, in ascending order."""
        slots = time // LOOK_US
        before = np.concatenate([[self._header.looked_at // LOOK_US], slots[:-1]])
        found: list[int] = np.flatnonzero(slots > before[: len(slots)]).tolist()
        return found

    def _flush(self) -> None:
        if self._pending:
            self._tables.add(run_of(self._pending))
            self._pending = []

    # ---- looks

    def at(self, time: int) -> list[Change]:
        """Look at the scopes if `time` (µs, never falling) crosses a border; cheap otherwise.

        Changes come by policy, section and scope.
        """
        header = self._header
        facts = self.facts
        if self.idle or facts is None or time // LOOK_US <= header.looked_at // LOOK_US:
            return []
        self._flush()
        sweep = time // SWEEP_US > header.swept_at // SWEEP_US
        since = header.swept_at if sweep else header.looked_at
        look = Look(self._tables, facts, time, since, sweep)
        changes = [change for watch in self._watches for change in self._look(look, watch)]
        header.looked_at, self._looked = time, True
        if sweep:
            header.swept_at = time
            self._forget_idle(time)
        return changes

    @property
    def next_look(self) -> int:
        """Broker time (µs) of the next border at which scopes are looked at."""
        return (self._header.looked_at // LOOK_US + 1) * LOOK_US

    def next_due(self) -> int | None:
        """Broker time at which a ladder can move or decisions are due if nothing comes, or None."""
        dues = []
        for watch in self._watches:
            for standing in self._standings.get(watch.group, {}).values():
                moves = ladder.next_due(standing, watch.pace)
                dues += [] if moves is None else [moves]
                dues += [standing.renew_at] if standing.level else []
        return max(min(dues), self.next_look) if dues else None

    def _look(self, look: Look, watch: Watch) -> Iterator[Change]:
        standings = self._standings.setdefault(watch.group, {})
        for scope, signals in look.signals(watch, frozenset(standings)):
            change = self._move(look, watch, scope, signals)
            if change is not None:
                yield change

    def _move(self, look: Look, watch: Watch, scope: Scope, signals: Signals) -> Change | None:
        time = look.time
        wanted = ladder.asked(watch.steps, watch.section, signals)
        standings = self._standings[watch.group]
        standing = standings.get(scope)
        if standing is None:
            if not wanted.up:
                return None
            standing = standings[scope] = Standing()
        self._changed.add((watch.group, scope))
        before = standing.level
        moves = ladder.step(standing, wanted, watch.pace, time)
        if standing.at_rest:
            del standings[scope]
        adjusted = not moves and self._adjust(look, watch, scope, standing)
        if not moves and not adjusted and not (standing.level and standing.renew_at <= time):
            return None
        standing.renew_at = time + watch.section.expires_after_s * 1_000_000 // 2
        return Change(watch.policy, Moved(
            watch.section, watch.steps, _pairs(watch.group, scope), before, standing.level, wanted,
            standing.rule_id, standing.rate_per_minute,
        ), standing)  # fmt: skip

    def _adjust(self, look: Look, watch: Watch, scope: Scope, standing: Standing) -> bool:
        """Move the rate of a rung whose rate moves, once a sweep."""
        rung = ladder.moving_rung(watch.steps, standing.level) if look.sweep else None
        pressure_ppm = None if rung is None else look.pressure_ppm(watch, rung, scope)
        if rung is None or pressure_ppm is None:
            return False
        return ladder.adjust(standing, rung, pressure_ppm)

    def _forget_idle(self, time: int) -> None:
        gone = self._tables.forget_idle(time)
        for watch in self._watches:
            for each in watch.filters:
                for row in gone:
                    each.forget(row)

    # ---- rows

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Rows that changed since the last call, encoded; None removes a row."""
        self._flush()
        if self._looked:
            self._looked = False
            yield HEADER, _encode(self._header)
        changed, self._changed = sorted(self._changed), set()
        for group, scope in changed:
            standing = self._standings.get(group, {}).get(scope)
            value = None if standing is None else _encode(standing)
            yield STANDING + _encode((group, scope)), value
        yield from self._tables.take_changes()

    def load(self, key: bytes, value: bytes) -> None:
        """Take one stored row; an empty value removes it."""
        if key == HEADER:
            self._header = msgspec.msgpack.decode(value, type=Header)
        elif key[:1] != STANDING:
            self._tables.load(key, value)
        else:
            group, scope = _key(key[1:])
            standings = self._standings.setdefault(group, {})
            if value:
                standings[scope] = _standing(value)
            else:
                standings.pop(scope, None)

    def _take(self, group: Group, scope: Scope) -> Standing:
        self._changed.add((group, scope))
        return self._standings[group].pop(scope)


def _sections(policy: Policy) -> list[Section]:
    return [section for section in (policy.ladder, policy.risk) if section is not None]


def _pairs(group: Group, scope: Scope) -> tuple[tuple[str, str], ...]:
    return tuple(zip(group[2], scope, strict=True))
