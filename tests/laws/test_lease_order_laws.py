"""Leases over periods, and over what arrives twice, late or out of order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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

from sluice.admission.point import AdmissionPoint
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.enforcement.leases import CLOSED, GRACE_US, SEEN
from sluice.metering.prices import default_book
from sluice.periods import period_of
from sluice.wire.codec import decode, encode

SECOND_US, LIMIT = 1_000_000, 40
MINUTES = """
policy_id: hard
budgets:
  - budget_id: minute
    scope: [tenant_id]
    unit: tokens
    limit: 40
    period: minute
    hard: true
    lease_wait_ms: 0
    refresh_after_ms: 1000
"""


def minute_of(instant: int) -> str:
    """The period of an instant (µs)."""
    return period_of("minute", "UTC", instant).period_id


class Gateway:
    """A real admission point; its clock is ahead of the broker's, its records arrive when sent."""

    def __init__(self, world: World, name: str, ahead_us: int) -> None:
        self.source, self.source_epoch, self.seq = name, "e1", 0
        self.outbox: list[bytes] = []
        self.open: list[Reservation] = []
        self.unread = 0
        self._world = world
        self._clock = lambda: world.at + ahead_us
        self.point = AdmissionPoint(None, self, source=name, clock=self._clock)
        self.point.adopt(self.point.empty_state())

    def emit(self, event: Mapping[str, Any]) -> None:
        """Number usage and keep it until it is sent."""
        self.seq += 1
        own = {"source": self.source, "source_epoch": "e1", "source_seq": self.seq}
        made = {"event_id": f"{self.source}{self.seq}", **event, **own, "end_mark": 90}
        self.outbox.append(encode("UsageEvent", made))

    def report(self, report: Mapping[str, Any]) -> str:
        """Keep a report until it is sent."""
        own = {"holder": self.source, "source_epoch": "e1", "last_seq": self.seq}
        self.outbox.append(encode("HolderReport", {**report, **own}))
        return "e1"

    def read(self) -> None:
        """Read the control topic to its end."""
        for key, value in self._world.control[self.unread :]:
            self.point.apply(0, key, value)
        self.unread = len(self._world.control)

    def reserve(self, amount: int) -> bool:
        """Let a request in, which needs a lease of the minute in which it comes."""
        request = AdmissionRequest("acme", "p", "m", estimates={"tokens": amount})
        try:
            held = self.point.reserve(request)
        except Refused as refused:
            assert refused.verdict.reason_code == "LEASE_EXHAUSTED"
            return False
        self._world.check_lease(self, minute_of(held.started_at))
        self.open.append(held)
        return True

    def finish(self, number: int) -> None:
        """End a request; some use up to a quarter more than they reserved."""
        if not self.open:
            return
        held = self.open.pop(number % len(self.open))
        used = held.request.estimates["tokens"] * (25 + number) // 100
        self._world.note(held, used)
        held.commit(input_tokens=used)


class World:
    """A partition and two gateways; records and control messages travel when they are told to."""

    def __init__(self) -> None:
        # The first border of minutes is near.
        self.references, self.at, self.offset = FakeReferences(), NOW + 52 * SECOND_US, 0
        self.part = partition(self.references)
        self.control: list[tuple[bytes, bytes | None]] = []
        self.used, self.over = Counter[str](), Counter[str]()
        self.put(activate(0, self.references.put(default_book())))
        self.put(activate(1, self.references.put(policy(MINUTES))))
        self.gateways = [Gateway(self, "one", 0), Gateway(self, "two", 3 * SECOND_US)]
        for gateway in self.gateways:
            gateway.read()

    def put(self, made: FakeRecord) -> None:
        self.part.apply([made])
        self.offset += 1
        outs = self.part.take()
        self.control += [(o.key, o.value) for o in outs if o.topic == TOPICS.control]

    def note(self, held: Reservation, used: int) -> None:
        """Count what a request truly used, in the minute in which it was admitted."""
        minute = minute_of(held.started_at)
        self.used[minute] += used
        self.over[minute] += max(0, used - held.request.estimates["tokens"])

    def check_lease(self, gateway: Gateway, minute: str) -> None:
        """Whoever was let in has a lease of its minute that the meter granted."""
        key = f"lease|hard|minute|tenant_id=acme|{minute}|{gateway.source}|e1".encode()
        assert gateway.point.state.leases[key]["granted_total"] > 0

    def step(self, what: str, which: int, number: int) -> None:
        gateway = self.gateways[which]
        if what == "reserve":
            if not gateway.reserve(1 + number // 3) and number % 5:
                # What it asked for may still come in time.
                self.send(gateway)
                gateway.read()
                gateway.reserve(1 + number // 3)
        elif what == "finish":
            gateway.finish(number)
        elif what == "tell":
            gateway.point.report()
            self.send(gateway)
        elif what == "read":
            gateway.read()
        else:
            self.at += number * SECOND_US // 3
            self.put(tick(self.offset, self.at))

    def send(self, gateway: Gateway) -> None:
        """What a gateway has emitted arrives."""
        sent, gateway.outbox = gateway.outbox, []
        for value in sent:
            self.put(FakeRecord(self.offset, self.at // 1000, b"acme", value))

    def end(self) -> None:
        """Every request ends and everything arrives, the last of it minutes later."""
        for gateway in self.gateways:
            while gateway.open:
                gateway.finish(50)
            self.send(gateway)
        self.at += 120 * SECOND_US
        self.put(tick(self.offset, self.at))


moves = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "finish", "tell", "read", "wait"]),
        st.integers(0, 1),
        st.integers(0, 100),
    ),
    max_size=70,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(drawn=moves)
def test_a_border_of_periods_opens_no_gap(drawn: list[tuple[str, int, int]]) -> None:
    """Requests in flight are charged to the minute they came in, and every minute has its limit.

    Nobody is let in without a lease of the minute in which it comes, and no lease of a minute
    outlives it, neither in the meter nor on the control topic.
    """
    world = World()
    for move in drawn:
        world.step(*move)
        held: Counter[str] = Counter()
        for gateway in world.gateways:
            for one in gateway.open:
                held[minute_of(one.started_at)] += one.request.estimates["tokens"]
        for minute in {*held, *world.used}:
            bound = LIMIT + world.over[minute]
            assert held[minute] + world.used[minute] <= bound, minute
        time = world.part.state.header.time
        for key, lease in world.part.state.leases.items():
            # What a report that comes too late opens grants nothing and is gone a second later.
            over = key.period_id < minute_of(time)
            assert not over or (lease.phase in (SEEN, CLOSED) and not lease.granted), key
    world.end()
    assert not world.part.state.leases
    settled = {k.period_id: ledger.settled for k, ledger in world.part.state.ledgers.items()}
    assert {minute: settled.get(minute, 0) for minute in world.used} == dict(world.used)
    assert sum(settled.values()) == world.used.total()
    stands = dict(world.control)
    assert [key for key, value in stands.items() if key.startswith(b"lease|") and value] == []


DAY = MINUTES.replace("minute", "day").replace("limit: 40", "limit: 1000")
# What holders want in the end. Some rounds of reports later everybody has a fair share of the rest:
# what one gave back is there for others two seconds after.
WANTS = {"a": 200, "b": 300, "c": 400}
HOLDERS = tuple(WANTS)
FINAL_ROUNDS = 4


def said(holder: str, seq: int, own: int, wants: int, in_flight: int = 0) -> dict[str, Any]:
    """A report of a holder that has emitted `seq` events and used `own` tokens."""
    return {
        "holder": holder, "holder_slot": holder, "tenant_id": "acme", "source_epoch": "e1",
        "policy_id": "hard", "budget_ids": ["day"], "scope": "tenant_id=acme",
        "period": "2027-01-15", "unit": "tokens", "wants": wants, "in_flight_reserved": in_flight,
        "interim_spend": 0, "last_seq": seq, "closing": False, "committed": own,
    }  # fmt: skip


# What each holder does in its own order: it uses tokens, or reports.
lives = st.lists(
    st.tuples(st.sampled_from(HOLDERS), st.booleans(), st.integers(0, 120)), max_size=30
)
# Where each message arrives beside its own place, and where it arrives again.
disorder = st.lists(st.tuples(st.integers(0, 30), st.integers(-1, 30)), min_size=30, max_size=30)


def messages(drawn: list[tuple[str, bool, int]]) -> list[tuple[str, dict[str, Any]]]:
    """Usage and reports in the order in which they were made."""
    made: list[tuple[str, dict[str, Any]]] = []
    seq, own = Counter[str](), Counter[str]()
    for holder, uses, number in drawn:
        if uses:
            seq[holder] += 1
            own[holder] += number
            made.append(("UsageEvent", usage(
                seq[holder], source=holder, input_tokens=number, output_tokens=0,
                event_id=f"{holder}{seq[holder]}",
            )))  # fmt: skip
        else:
            made.append(
                ("HolderReport", said(holder, seq[holder], own[holder], number, number // 2))
            )
    return made


def own_use(sent: list[tuple[str, dict[str, Any]]]) -> Counter[str]:
    """What each holder has used."""
    own = Counter(dict.fromkeys(HOLDERS, 0))
    for name, event in sent:
        if name == "UsageEvent":
            own[event["source"]] += event["input_tokens"]
    return own


def arrived(
    sent: list[tuple[str, dict[str, Any]]], moved: list[tuple[int, int]]
) -> list[tuple[str, dict[str, Any]]]:
    """The same messages in another order, some of them twice."""
    places: list[tuple[int, int]] = []
    for number, (late, again) in zip(range(len(sent)), moved, strict=False):
        places.append((number + late, number))
        if again >= 0:
            places.append((number + again, number))
    return [sent[number] for _, number in sorted(places)]


def ended(
    came: list[tuple[str, dict[str, Any]]], sent: list[tuple[str, dict[str, Any]]]
) -> tuple[dict[str, int], int]:
    """Grants by holder, and what is settled, after everybody has reported to the end."""
    references, at = FakeReferences(), NOW
    part = partition(references)
    part.apply([activate(0, references.put(default_book())),
                activate(1, references.put(policy(DAY)))])  # fmt: skip
    tail: list[tuple[str, dict[str, Any]]] = []
    seq = Counter(event["source"] for name, event in sent if name == "UsageEvent")
    own = own_use(sent)
    for _ in range(FINAL_ROUNDS):
        tail += [("HolderReport", said(h, seq[h], own[h], WANTS[h])) for h in HOLDERS]
    grants: dict[str, int] = {}
    for offset, (name, fields) in enumerate([*came, *tail], 2):
        last = offset - 2 >= len(came)
        at += GRACE_US if last else SECOND_US // 10
        part.apply([record(offset, fields, at=at, name=name)])
        for out in part.take():
            if out.key.startswith(b"lease|") and out.value and out.topic == TOPICS.control:
                grant = decode(out.value)[1]
                grants[grant["holder"]] = grant["granted_total"]
    (ledger,) = part.state.ledgers.values()
    return grants, ledger.settled


@settings(max_examples=100, deadline=None)
@given(drawn=lives, moved=disorder)
def test_order_and_repetition_change_nothing_in_the_end(
    drawn: list[tuple[str, bool, int]], moved: list[tuple[int, int]]
) -> None:
    """Usage and reports twice, late and out of order: the same is settled and granted.

    What is granted in the end is what plain sharing of the remainder gives.
    """
    sent = messages(drawn)
    calm = ended(sent, sent)
    assert ended(arrived(sent, moved), sent) == calm
    own = own_use(sent)
    shares = shared_out(max(0, 1000 - own.total()), WANTS)
    assert calm == ({h: own[h] + shares[h] for h in HOLDERS}, own.total())


def shared_out(room: int, wants: dict[str, int]) -> dict[str, int]:
    """Fair shares, one unit after the other to whoever has least and wants more."""
    shares = dict.fromkeys(wants, 0)
    for _ in range(room):
        hungry = [h for h in wants if shares[h] < wants[h]]
        if not hungry:
            break
        # The last units go to who wants most, as whole shares of water filling do.
        least = min(hungry, key=lambda h: (shares[h], -wants[h], h))
        shares[least] += 1
    return shares
