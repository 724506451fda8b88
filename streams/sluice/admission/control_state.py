"""What the control topic says now: the newest message of every key, found by scope.

Pure: the time is an argument. One thread at a time may call `apply` and `expect`; `matching` and
`staleness` may run beside it, because every change of the index is one assignment of an immutable
value.

Only the newest message of a key is held, as compaction would leave it: a decision that begins later
replaces the one before it at once. What a point does never depends on when it began to read.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from sluice.admission.budget_rule import BudgetRules, read_rule
from sluice.admission.decision import CONDITIONS, Decision, Effect, Version, read_decision
from sluice.errors import WireError
from sluice.wire.fast_reader import read_value

# Lifted keys whose last version is remembered; beyond it the longest lifted are forgotten.
MAX_LIFTED = 65_536

Table = dict[Any, tuple[Decision, ...]]


class Match(NamedTuple):
    """A decision that is in force for a request, and what it does."""

    decision: Decision
    effect: Effect


@dataclass(frozen=True, slots=True)
class Applied:
    """A message that changed the state; `decision` is the new one, or the one that was lifted."""

    kind: Literal["decision", "budget", "lease", "heartbeat", "lifted"]
    key: bytes
    decision: Decision | None = None


class ControlState:
    """Decisions, budgets, lease grants and heartbeats by control key, decisions also by scope.

    `counts` tells what happened to messages: applied, stale, lifted, garbage, and the words of
    decisions that were not understood. `carries_out`: see `read_decision`. With a `holder`, grants
    to others are passed over.
    """

    def __init__(
        self, carries_out: Collection[str] = CONDITIONS, holder: str | None = None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.decisions: dict[bytes, Decision] = {}
        self.budgets = BudgetRules()
        self.leases: dict[bytes, Mapping[str, Any]] = {}
        self.heard_at: dict[int, int] = {}
        self._carries_out = frozenset(carries_out)
        self._holder = holder
        self._versions: dict[bytes, Version] = {}
        self._lifted: OrderedDict[bytes, Version] = OrderedDict()
        self._beats: dict[int, tuple[int, int, int]] = {}
        self._oldest_heard_at: int | None = None
        self._tables: dict[tuple[str, ...], Table] = {}
        self._lookups: tuple[tuple[Callable[[Any], Any], Table], ...] = ()

    def apply(
        self, partition: int, key: bytes | None, value: bytes | None, now: int
    ) -> Applied | None:
        """Take one message of the control topic; None where it changed nothing.

        A message counts only if its (epoch, sequence) is above what is held for the key or was
        held when the key was lifted. Whatever cannot be read is counted and ignored. `now` (µs
        UTC) bounds what a sender's fast clock may claim about its freshness.
        """
        if key is None:
            return self._ignored("garbage")
        if value is None:
            return self._lift(key)
        try:
            name, record = read_value(value)
        except WireError:
            return self._ignored("garbage")
        if name == "Decision":
            return self._decide(partition, key, record, now)
        if name == "BudgetRule":
            return self._rule(key, record)
        if name == "LeaseGrant":
            return self._grant(key, record)
        if name == "Heartbeat" and record["source_partition"] == partition:
            return self._beat(partition, key, record, now)
        return self._ignored("garbage")

    def expect(self, partitions: Iterable[int], now: int) -> None:
        """Count the silence of these source partitions from `now`, where nothing was heard yet."""
        for partition in partitions:
            if partition not in self.heard_at:
                self._heard(partition, now)

    def matching(self, request: Any, now: int) -> list[Match]:
        """Decisions in force for a request, whose attributes are the scope fields.

        Costs one look-up per distinct set of scope fields, however many decisions there are.
        """
        found = []
        for values_of, table in self._lookups:
            held = table.get(values_of(request))
            if held is not None:
                for decision in held:
                    if decision.starts_at <= now < decision.expires_at:
                        found.append(Match(decision, decision.effect))
                    elif (effect := decision.effect_at(now)) is not None:
                        found.append(Match(decision, effect))
        return found

    def staleness(self, now: int) -> int | None:
        """µs since the longest silent source partition was heard; None if none is expected."""
        oldest = self._oldest_heard_at
        if oldest is None:
            return None
        return now - oldest if now > oldest else 0

    def _ignored(self, why: str) -> Applied | None:
        self.counts[why] += 1
        return None

    def _lift(self, key: bytes) -> Applied | None:
        version = self._versions.pop(key, None)
        if version is None:
            return self._ignored("lifted_unknown")
        self._lifted[key] = version
        if len(self._lifted) > MAX_LIFTED:
            self._lifted.popitem(last=False)
        self.leases.pop(key, None)
        self.budgets.drop(key)
        decision = self.decisions.pop(key, None)
        if decision is not None:
            self._unindex(decision)
        self.counts["lifted"] += 1
        return Applied("lifted", key, decision)

    def _newer(self, key: bytes, version: Version) -> bool:
        """Whether `version` is above all that was seen for the key; then it is the newest."""
        last = self._versions.get(key) or self._lifted.get(key)
        if last is not None and version <= last:
            self.counts["stale"] += 1
            return False
        self._lifted.pop(key, None)
        self._versions[key] = version
        self.counts["applied"] += 1
        return True

    def _decide(
        self, partition: int, key: bytes, record: Mapping[str, Any], now: int
    ) -> Applied | None:
        decision = read_decision(key, partition, record, self._carries_out)
        if not self._newer(key, decision.version):
            return None
        for note in decision.notes:
            self.counts[note.counter] += 1
        before = self.decisions.get(key)
        self.decisions[key] = decision
        if not decision.shadow:
            self._index(decision)
        if before is not None and (decision.shadow or before.scope != decision.scope):
            self._unindex(before)
        self._heard(partition, min(decision.issued_at, now))
        return Applied("decision", key, decision)

    def _rule(self, key: bytes, record: Mapping[str, Any]) -> Applied | None:
        if not self._newer(key, (record["epoch"], record["sequence"])):
            return None
        self.budgets.put(read_rule(key, record))
        return Applied("budget", key)

    def _grant(self, key: bytes, record: Mapping[str, Any]) -> Applied | None:
        if self._holder is not None and record["holder"] != self._holder:
            return self._ignored("of_others")
        if not self._newer(key, (record["epoch"], record["sequence"])):
            return None
        self.leases[key] = record
        return Applied("lease", key)

    def _beat(
        self, partition: int, key: bytes, record: Mapping[str, Any], now: int
    ) -> Applied | None:
        # On a silent partition only the time moves.
        beat = (record["epoch"], record["sequence"], record["issued_at"])
        if beat <= self._beats.get(partition, (-1, -1, -1)):
            return self._ignored("stale")
        self._beats[partition] = beat
        self._heard(partition, min(record["issued_at"], now))
        self.counts["heartbeats"] += 1
        return Applied("heartbeat", key)

    def _heard(self, partition: int, instant: int) -> None:
        if instant > self.heard_at.get(partition, -1):
            self.heard_at[partition] = instant
            self._oldest_heard_at = min(self.heard_at.values())

    def _index(self, decision: Decision) -> None:
        table = self._tables.setdefault(_fields(decision), {})
        values = _values(decision)
        held = table.get(values)
        if held is None:
            table[values] = (decision,)
        else:
            table[values] = (*(d for d in held if d.key != decision.key), decision)
        if len(self._tables) != len(self._lookups):
            self._list_lookups()

    def _unindex(self, decision: Decision) -> None:
        table = self._tables.get(_fields(decision), {})
        values = _values(decision)
        others = tuple(d for d in table.get(values, ()) if d.key != decision.key)
        if others:
            table[values] = others
            return
        table.pop(values, None)
        if not table and self._tables.pop(_fields(decision), None) is not None:
            self._list_lookups()

    def _list_lookups(self) -> None:
        self._lookups = tuple((_getter(fields), table) for fields, table in self._tables.items())


def _fields(decision: Decision) -> tuple[str, ...]:
    return tuple([name for name, _ in decision.scope])


def _values(decision: Decision) -> Any:
    """What `_getter` returns for a request of exactly this scope."""
    values = tuple([value for _, value in decision.scope])
    return values[0] if len(values) == 1 else values


def _getter(fields: tuple[str, ...]) -> Callable[[Any], Any]:
    return attrgetter(*fields) if fields else _nothing


def _nothing(_: Any) -> tuple[()]:
    return ()
