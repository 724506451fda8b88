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

from sluice.admission.budget_rule import BudgetRule, BudgetRules, read_rule
from sluice.admission.decision import CONDITIONS, Decision, Effect, Version, read_decision
from sluice.errors import WireError
from sluice.wire.fast_reader import read_value

# Lifted keys whose last version is remembered; beyond it the longest lifted are forgotten.
MAX_LIFTED = 65_536


class Match(NamedTuple):
    """A decision that is in force for a request, and what it does."""

    decision: Decision
    effect: Effect


# Decisions, each with what it does in its time, by number of a set of scope fields and values.
Table = dict[tuple[int, Any], tuple[Match, ...]]
# How to look a request up: numbers of sets of scope fields, and what reads their values of it.
Lookups = tuple[tuple[int, Callable[[Any], Any]], ...]


class Group:
    """Decisions about one tenant, or about any, by the other fields of their scopes."""

    __slots__ = ("lookups", "table")

    def __init__(self) -> None:
        self.lookups: Lookups = ()
        self.table: Table = {}


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
        self._across_heard_at: int | None = None
        # Whether tenants have their usage there, as the newest heartbeat says.
        self._of_tenants: dict[int, bool] = {}
        self._last_partition = 0
        # By tenant, so that what one request meets lies together, and most find nothing at once.
        self._groups: dict[str, Group] = {}
        self._of_any = Group()
        self._numbers: dict[tuple[str, ...], int] = {}
        # Most tenants have the same sets of fields, and share how they are looked up.
        self._lookups: dict[tuple[Lookups, int], Lookups] = {}

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
        """Count the silence of these source partitions from `now`, where nothing was heard yet.

        The last of several is of the budgets that span tenants, unless its heartbeats say that
        tenants have their usage there.
        """
        partitions = list(partitions)
        self._last_partition = max(partitions, default=0)
        for partition in partitions:
            if partition not in self.heard_at:
                self._heard(partition, now)
        self._compare_silence()

    def matching(self, request: Any, now: int) -> list[Match]:
        """Decisions in force for a request, whose attributes are the scope fields.

        Costs one look-up per set of scope fields that its tenant has, however many decisions.
        """
        found: list[Match] = []
        group = self._groups.get(request.tenant_id)
        if group is not None:
            _find(group, request, now, found)
        if self._of_any.lookups:
            _find(self._of_any, request, now, found)
        return found

    def staleness(self, now: int) -> int | None:
        """µs since the longest silent usage partition was heard; None if none is expected."""
        return _since(self._oldest_heard_at, now)

    def across_staleness(self, now: int) -> int | None:
        """µs since the owner of budgets that span tenants was heard; None if it never was."""
        return _since(self._across_heard_at, now)

    def silence_of(self, rule: BudgetRule, now: int) -> int | None:
        """µs for which those who own a budget have been silent."""
        return self.staleness(now) if rule.of_tenant else self.across_staleness(now)

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
        is_as_before = self._of_tenants.get(partition) is record["of_tenants"]
        self._of_tenants[partition] = record["of_tenants"]
        self._heard(partition, min(record["issued_at"], now))
        if not is_as_before:
            self._compare_silence()
        self.counts["heartbeats"] += 1
        return Applied("heartbeat", key)

    def _heard(self, partition: int, instant: int) -> None:
        if instant > self.heard_at.get(partition, -1):
            self.heard_at[partition] = instant
            self._compare_silence()

    def _compare_silence(self) -> None:
        usage, across = [], []
        for number, heard_at in self.heard_at.items():
            of_tenants = self._of_tenants.get(number)
            if of_tenants or (of_tenants is None and number != (self._last_partition or None)):
                usage.append(heard_at)
            elif of_tenants is False:
                across.append(heard_at)
        self._oldest_heard_at = min(usage, default=None)
        self._across_heard_at = max(across, default=None)

    def _index(self, decision: Decision) -> None:
        tenant_id, fields, values = _placed(decision)
        group = self._of_any if tenant_id is None else self._groups.get(tenant_id)
        if group is None:
            group = self._groups[str(tenant_id)] = Group()
        number = self._numbers.setdefault(fields, len(self._numbers))
        place, match = (number, values), Match(decision, decision.effect)
        held = group.table.get(place)
        if held is not None:
            others = [other for other in held if other.decision.key != decision.key]
            group.table[place] = (*others, match)
            return
        group.table[place] = (match,)
        for known, _ in group.lookups:
            if known == number:
                return
        group.lookups = self._with(group.lookups, number, fields)

    def _with(self, lookups: Lookups, number: int, fields: tuple[str, ...]) -> Lookups:
        grown = self._lookups.get((lookups, number))
        if grown is None:
            grown = self._lookups[lookups, number] = (*lookups, (number, _getter(fields)))
        return grown

    def _unindex(self, decision: Decision) -> None:
        tenant_id, fields, values = _placed(decision)
        group = self._of_any if tenant_id is None else self._groups.get(tenant_id)
        if group is None:
            return
        place = (self._numbers.get(fields, -1), values)
        others = tuple([m for m in group.table.get(place, ()) if m.decision.key != decision.key])
        if others:
            group.table[place] = others
            return
        group.table.pop(place, None)
        left = len(group.table)
        if not left and tenant_id is not None:
            del self._groups[tenant_id]
        # Looked through each time that it has halved: to lift many costs a few steps for each.
        if not left & (left - 1):
            numbers = {number for number, _ in group.table}
            group.lookups = tuple([known for known in group.lookups if known[0] in numbers])


def _find(group: Group, request: Any, now: int, found: list[Match]) -> None:
    """Add what is in force for a request."""
    table = group.table
    for number, values_of in group.lookups:
        held = table.get((number, values_of(request)))
        if held is not None:
            for match in held:
                decision = match[0]
                if decision.starts_at <= now < decision.expires_at:
                    found.append(match)
                elif (effect := decision.effect_at(now)) is not None:
                    found.append(Match(decision, effect))


def _since(heard_at: int | None, now: int) -> int | None:
    return None if heard_at is None else max(0, now - heard_at)


def _placed(decision: Decision) -> tuple[str | None, tuple[str, ...], Any]:
    """Tenant of a decision, its other scope fields, and what `_getter` returns of their values."""
    scope, tenant_id = decision.scope, None
    if scope and scope[0][0] == "tenant_id":
        tenant_id, scope = scope[0][1], scope[1:]
    values = tuple([value for _, value in scope])
    return tenant_id, tuple([name for name, _ in scope]), values[0] if len(values) == 1 else values


def _getter(fields: tuple[str, ...]) -> Callable[[Any], Any]:
    return attrgetter(*fields) if fields else _nothing


def _nothing(_: Any) -> tuple[()]:
    return ()
