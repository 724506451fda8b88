"""Laws of budgets that span tenants: ledgers are the sum of the shares, grants keep the limit."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    NOW,
    TOPICS,
    FakeRecord,
    FakeReferences,
    across,
    activate,
    policy,
    record,
    tick,
)

from sluice.enforcement.budgets import LedgerKey
from sluice.enforcement.shares import Share, ShareKey, Sums, add, share_record
from sluice.wire.codec import decode

DAY, DAY_US, LIMIT = "2027-01-15", 86_400_000_000, 100
POLICY = policy(f"""
policy_id: all
budgets:
  - budget_id: b
    scope: []
    unit: tokens
    limit: {LIMIT}
    period: day
    hard: true
    rules: [{{rule_id: note, at: 50%, action: rate_limit, rate_per_minute: 9}}]
""")
HOLDERS = ("x", "y")


class Step(NamedTuple):
    """Something that happens; `restart`: a successor of the rollup takes over before it."""

    what: str
    partition: int
    source: str
    amount: int
    restart: bool


usages = st.builds(
    Step, st.sampled_from(("use", "use", "lost", "again", "report", "tick")), st.integers(0, 3),
    st.sampled_from(("", *HOLDERS)), st.integers(-5, 25), st.booleans(),
)  # fmt: skip
steps = st.lists(usages, max_size=40)


class Partitions:
    """Usage partitions: their shares, and every word that they said of them."""

    def __init__(self) -> None:
        self.shares: dict[ShareKey, Share] = {}
        self.words: list[dict[str, Any]] = []

    def use(self, step: Step) -> dict[str, Any]:
        """Usage is added to a share; the word on it. Corrections are of no process."""
        amount = abs(step.amount) if step.source else step.amount
        key = ShareKey(step.partition, "all", "b", "", DAY, step.source, step.source and "e1")
        begin = NOW - NOW % DAY_US
        share = self.shares.setdefault(key, Share("tokens", begin, begin + DAY_US, NOW))
        add(share, Sums(amount, min(amount, 0), int(amount > 0), 0))
        share.version += 3
        self.words.append(share_record(key, share))
        return self.words[-1]

    def total(self) -> tuple[int, int, int]:
        """Settled, corrected and events of all shares."""
        found = self.shares.values()
        return (sum(s.settled for s in found), sum(s.corrected for s in found),
                sum(s.events for s in found))  # fmt: skip


class World:
    """The rollup, what it stored, what it said, and what it was told of each process."""

    def __init__(self, *, restarts: bool) -> None:
        self.restarts = restarts
        self.references = FakeReferences()
        self.part = across(self.references)
        self.stored: dict[bytes, bytes | None] = {}
        self.records: list[FakeRecord] = []
        self.said: list[tuple[bytes, Any]] = []
        self.granted: dict[str, int] = defaultdict(int)
        self.settled: dict[str, dict[int, int]] = defaultdict(dict)
        self.latest: dict[tuple[int, str], dict[str, Any]] = {}

    def put(self, made: FakeRecord, *, restart: bool = False) -> None:
        """One record; what is said because of it must keep the limit."""
        if restart and self.restarts:
            self.part = across(self.references, epoch=len(self.records), stored=self.stored)
        self.records.append(made)
        self.part.apply([made])
        for out in self.part.take():
            if out.topic == TOPICS.rollup_state:
                self.stored[out.key] = out.value
            elif out.topic == TOPICS.control and out.value:
                self.hear(out.key, *decode(out.value))

    def hear(self, key: bytes, name: str, fields: dict[str, Any]) -> None:
        amount = fields.get("granted_total", fields.get("action"))
        self.said.append((key, amount))
        if name == "LeaseGrant":
            before = self.committed()
            self.granted[fields["holder"]] = amount
            assert self.committed() <= max(before, LIMIT)

    def committed(self) -> int:
        """Usage without a lease, and of each holder the more of grant and usage."""
        used = {source: sum(found.values()) for source, found in self.settled.items()}
        with_lease = (max(self.granted[h], used.get(h, 0)) for h in HOLDERS)
        return used.get("", 0) + sum(with_lease)

    def word(self, fields: dict[str, Any], *, restart: bool) -> None:
        """A word of a partition; an older one changes nothing."""
        number, source = name = fields["source_partition"], fields["source"] or ""
        before = self.latest.get(name, fields)
        latest = self.latest[name] = max(before, fields, key=lambda word: word["version"])
        self.settled[source][number] = latest["settled"]
        made = record(len(self.records), fields, key="b", name="PartialRow")
        self.put(made, restart=restart)


def run(happened: list[Step], begins: int, *, restarts: bool) -> tuple[World, Partitions]:
    """Everything that happened, the policy in force from step `begins` on, and a last word each."""
    world, partitions = World(restarts=restarts), Partitions()
    in_force = world.references.put(POLICY)
    for number, step in enumerate(happened):
        if number == begins:
            world.put(activate(len(world.records), in_force), restart=step.restart)
        take(world, partitions, step)
    if begins >= len(happened):
        world.put(activate(len(world.records), in_force))
    for key, share in partitions.shares.items():
        share.version += 1
        world.word(share_record(key, share), restart=True)
    return world, partitions


def take(world: World, partitions: Partitions, step: Step) -> None:
    """One step; a lost word is made good by the next on the same share."""
    if step.what == "lost":
        partitions.use(step)
    elif step.what == "use":
        world.word(partitions.use(step), restart=step.restart)
    elif step.what == "again" and partitions.words:
        chosen = partitions.words[step.amount % len(partitions.words)]
        world.word(chosen, restart=step.restart)
    elif step.what == "report" and step.source:
        fields = {
            "holder": step.source, "holder_slot": step.source, "source_epoch": "e1",
            "tenant_id": "", "policy_id": "all", "budget_ids": ["b"], "scope": "", "period": DAY,
            "unit": "tokens", "wants": max(step.amount, 0), "in_flight_reserved": 0,
            "interim_spend": 0, "last_seq": 0, "closing": False,
        }  # fmt: skip
        made = record(len(world.records), fields, name="HolderReport")
        world.put(made, restart=step.restart)
    else:
        world.put(tick(len(world.records), NOW), restart=step.restart)


@settings(deadline=None)
@given(steps, st.integers(0, 45))
def test_ledgers_are_the_sum_of_the_shares(happened: list[Step], begins: int) -> None:
    """In any order, with words lost and repeated, whenever the policy came, over restarts."""
    world, partitions = run(happened, begins, restarts=True)
    ledger = world.part.state.ledgers.get(LedgerKey("all", "b", "", DAY))
    found = (ledger.settled, ledger.corrected, ledger.events) if ledger else (0, 0, 0)
    assert found == partitions.total()


@settings(deadline=None)
@given(steps, st.integers(0, 45))
def test_restarts_change_nothing(happened: list[Step], begins: int) -> None:
    """A successor between any two records says and stores what the same owner would have."""
    restarted, _ = run(happened, begins, restarts=True)
    steady, _ = run(happened, begins, restarts=False)
    assert restarted.said == steady.said
    for name in ("ledgers", "leases", "told"):
        found, wanted = getattr(restarted.part.state, name), getattr(steady.part.state, name)
        assert found == wanted


@settings(deadline=None)
@given(steps, st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
def test_a_lease_ends_when_all_partitions_have_answered(
    happened: list[Step], answers: list[tuple[int, bool]]
) -> None:
    """In any order of answers; until then nothing of it is given to others."""
    world, partitions = run(happened, 0, restarts=True)
    fields = {
        "holder": "x", "holder_slot": "x", "source_epoch": "e1", "tenant_id": "",
        "policy_id": "all", "budget_ids": ["b"], "scope": "", "period": DAY, "unit": "tokens",
        "wants": 0, "in_flight_reserved": 0, "interim_spend": 0, "last_seq": 10**6,
        "closing": True,
    }  # fmt: skip
    world.put(record(len(world.records), fields, name="HolderReport"))
    answered: set[int] = set()
    for number, restart in answers:
        word = partitions.use(Step("use", number, "x", 0, restart)) | {"closing": True}
        world.word(word, restart=restart)
        answered.add(number)
        (lease,) = (v for k, v in world.part.state.leases.items() if k.holder == "x")
        assert (lease.phase == "closed") == (len(answered) == TOPICS.partitions)
        asked = {number for number, _ in world.part.closing_questions()}
        left = set(range(TOPICS.partitions)) - answered
        assert asked == (left if len(answered) < TOPICS.partitions else set())
