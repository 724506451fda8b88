"""Laws of leases: what holders may spend stays within the limit, is shared fairly, and replays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    NOW,
    TOPICS,
    FakeRecord,
    FakeReferences,
    activate,
    partition,
    policy,
    record,
    tick,
    usage,
)
from tests.laws.lease_oracle import PROJECTS, Holder, Request, chain, committed
from tests.laws.streams import pieces

from sluice.enforcement import leases
from sluice.metering.prices import default_book
from sluice.runtime.outputs import OutRecord
from sluice.wire.codec import decode

LIMITS = {"tenant": 100, "project": 70}
POLICY = policy("""
policy_id: hard
budgets:
  - budget_id: tenant
    scope: [tenant_id]
    unit: tokens
    limit: 100
    period: day
    hard: true
    weights: {b: 3}
    rules: [{rule_id: note, at: 50%, action: rate_limit, rate_per_minute: 9}]
  - budget_id: project
    scope: [tenant_id, project_id]
    unit: tokens
    limit: 70
    period: day
    hard: true
    parent: tenant
""")

KINDS = (["report"] * 5 + ["reserve"] * 9 + ["finish"] * 4 + ["wait"] * 3
         + ["crash", "close", "again", "tick"])  # fmt: skip
steps = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from("abc"),
        st.sampled_from(PROJECTS),
        st.integers(0, 100),
    ),
    max_size=60,
)  # fmt: skip


class World:
    """A partition, three holders, and everything that went over the topic."""

    def __init__(self) -> None:
        self.references = FakeReferences()
        self.part = partition(self.references)
        self.at = NOW
        self.records: list[FakeRecord] = []
        self.outs: list[OutRecord] = []
        self.holders = {name: Holder(name) for name in "abc"}
        self.reports: list[dict[str, Any]] = []
        self.put(activate(0, self.references.put(default_book())))
        self.put(activate(1, self.references.put(POLICY)))

    def put(self, made: FakeRecord) -> None:
        self.records.append(made)
        self.part.apply([made])
        for out in self.part.take():
            if out.topic == TOPICS.meter_state:
                continue
            self.outs.append(out)
            if out.topic == TOPICS.control and out.value:
                name, message = decode(out.value)
                if name == "LeaseGrant":
                    self.holders[message["holder"]].inbox.append(message)

    def say(self, fields: dict[str, Any]) -> None:
        self.put(record(len(self.records), fields, at=self.at, name="HolderReport"))

    def report(self, holder: Holder, project: str, wants: int) -> None:
        """Tell what the holder has of both ledgers of a project."""
        for budget_id, scope in chain(project):
            fields = {
                "holder": holder.name, "holder_slot": holder.name, "tenant_id": "acme",
                "source_epoch": holder.process, "policy_id": "hard", "budget_ids": [budget_id],
                "scope": scope, "period": "2027-01-15", "unit": "tokens", "wants": wants,
                "in_flight_reserved": holder.reserved((budget_id, scope)), "interim_spend": 0,
                "last_seq": holder.seq, "closing": False,
            }  # fmt: skip
            if holder.name == "b":  # one that also tells what it counts
                fields["committed"] = holder.committed.get((budget_id, scope), 0)
            self.reports.append(fields)
            self.say(fields)

    def step(self, what: str, name: str, project: str, number: int) -> None:
        holder = self.holders[name]
        if what == "report":
            self.report(holder, project, number)
        elif what == "reserve":
            self.reserve(holder, project, number)
        elif what == "finish":
            self.finish(holder, number)
        elif what == "wait":
            self.wait(number)
        elif what == "tick":
            self.put(tick(len(self.records), self.at))
        elif what == "crash":
            holder.crash()
        elif what == "close":
            self.close(holder)
        elif self.reports:
            self.say(self.reports[number % len(self.reports)])

    def reserve(self, holder: Holder, project: str, number: int) -> None:
        """Admit a request, or ask for a lease, whose grant may be on its way for a while."""
        amount = number // 4 + 1
        if not holder.reserve(project, amount, self.at):
            self.report(holder, project, amount + number % 30)
            if number % 5:
                holder.deliver()
                holder.reserve(project, amount, self.at)

    def finish(self, holder: Holder, number: int) -> None:
        process = holder.process
        done = holder.finish(number, number)
        if done is not None:
            self.use(holder.name, process, holder.seq, *done)

    def use(self, source: str, epoch: str, seq: int, request: Request, used: int) -> None:
        """Usage of a request arrives."""
        event = usage(
            seq, source=source, source_epoch=epoch, occurred_at=self.at, started_at=self.at,
            project_id=request.project, input_tokens=used, output_tokens=0,
            event_id=f"{source}{epoch}{seq}",
        )  # fmt: skip
        self.put(record(len(self.records), event, at=self.at))

    def wait(self, number: int) -> None:
        """Some seconds, or more than a lease lives; holders see their grants and report."""
        self.at += 3_000_000 if number < 90 else 130_000_000
        for holder in self.holders.values():
            holder.deliver()
        self.put(tick(len(self.records), self.at))
        for holder in self.holders.values():
            for project in PROJECTS:
                if chain(project)[0] in holder.grants:
                    self.report(holder, project, number % 40)

    def close(self, holder: Holder) -> None:
        """A successor emits what a process before it had left, and tells that it is over."""
        if holder.ended:
            epoch, last_seq, running = holder.ended.pop(0)
            for request in running:
                last_seq += 1
                self.use(holder.name, epoch, last_seq, request, request.reserved)
            for project in PROJECTS:
                for budget_id, scope in chain(project):
                    self.say({
                        "holder": holder.name, "holder_slot": holder.name, "tenant_id": "acme",
                        "source_epoch": epoch, "policy_id": "hard", "unit": "tokens",
                        "budget_ids": [budget_id], "scope": scope, "period": "2027-01-15",
                        "wants": 0, "in_flight_reserved": 0, "interim_spend": 0,
                        "last_seq": last_seq, "closing": True,
                    })  # fmt: skip

    def spent(self, ledger: tuple[str, str]) -> int:
        """What is settled of a ledger and in flight anywhere, in truth."""
        settled = [l.settled for k, l in self.part.state.ledgers.items() if k[1:3] == ledger]
        held = [h.reserved(ledger) + h.unheard(ledger) for h in self.holders.values()]
        return sum(settled) + sum(held)


def lived(drawn: list[tuple[str, str, str, int]], look: Callable[[World], None]) -> World:
    """A world after the drawn steps, looked at after each."""
    world = World()
    for step in drawn:
        world.step(*step)
        look(world)
    return world


LEDGERS = sorted({ledger for project in PROJECTS for ledger in chain(project)})


@settings(max_examples=150, deadline=None)
@given(drawn=steps)
def test_nothing_is_spent_beyond_a_hard_limit(drawn: list[tuple[str, str, str, int]]) -> None:
    """Crashes, silence, repeated and old reports, late usage: limits hold, parents' too."""

    def look(world: World) -> None:
        for ledger in LEDGERS:
            assert world.spent(ledger) <= LIMITS[ledger[0]], ledger
            if any(key[1:3] == ledger for key in world.part.state.ledgers):
                total = committed(world.part.state, *ledger)
                assert total <= LIMITS[ledger[0]], ledger

    lived(drawn, look)


@settings(max_examples=80, deadline=None)
@given(drawn=steps)
def test_grants_cover_what_is_in_use(drawn: list[tuple[str, str, str, int]]) -> None:
    """No grant falls below what its holder reported as settled and in flight."""

    def look(world: World) -> None:
        for lease in world.part.state.leases.values():
            assert lease.settled >= 0
            if lease.phase == leases.OPEN:
                assert lease.granted >= lease.base
                assert lease.counted >= lease.granted

    lived(drawn, look)


@settings(max_examples=80, deadline=None)
@given(drawn=steps)
def test_rows_show_what_leases_hold(drawn: list[tuple[str, str, str, int]]) -> None:
    """Reserved and presumed amounts, kept as they change, are those added up from nothing."""

    def look(world: World) -> None:
        state = world.part.state
        for key, ledger in state.ledgers.items():
            held = world.part._governance._leasing.held(key)
            total = ledger.settled + held.reserved + held.presumed
            assert total == committed(state, key.budget_id, key.scope)
            assert min(held) >= 0

    lived(drawn, look)


@settings(max_examples=80, deadline=None)
@given(drawn=steps, cuts=st.lists(st.integers(0, 120), max_size=5))
def test_a_replay_cut_anywhere_gives_the_same_bytes(
    drawn: list[tuple[str, str, str, int]], cuts: list[int]
) -> None:
    """Grants and rows are the same one by one, in chunks, and over restarts."""
    world = lived(drawn, lambda _: None)
    whole = partition(world.references)
    whole.apply(world.records)
    assert [o for o in whole.take() if o.topic != TOPICS.meter_state] == world.outs
    part, stored = partition(world.references), {}
    produced: list[OutRecord] = []
    for piece in pieces(world.records, cuts):
        part.apply(piece)
        taken = part.take()
        stored |= {o.key: o.value for o in taken if o.topic == TOPICS.meter_state}
        produced += [o for o in taken if o.topic != TOPICS.meter_state]
        part = partition(world.references, stored=stored)
    assert produced == world.outs


wants = st.dictionaries(
    st.tuples(st.sampled_from("abcdefgh")),
    st.tuples(st.integers(0, 50), st.integers(1, 5)),
    min_size=1,
)


@given(room=st.integers(0, 200), of=wants)
def test_shares_are_weighted_max_min_fair(room: int, of: dict[tuple[str], tuple[int, int]]) -> None:
    """All of the room is used; who gets less than it wants has, by weight, as much as anybody."""
    shares = leases.fair_shares(room, of)
    assert sum(shares.values()) == min(room, sum(want for want, _ in of.values()))
    for key, share in shares.items():
        want, weight = of[key]
        assert 0 <= share <= want
        if share < want:
            for other, more in shares.items():
                # Whole units: a share is rounded down by less than one, and the rest goes on.
                other_weight = of[other][1]
                assert more * weight <= share * other_weight + len(of) * weight + other_weight
