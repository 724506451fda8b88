"""Hard budgets end to end in memory: real admission points and a real partition, one topic between.

The law of overshoot: what is settled beyond the limit is at most what requests took beyond what
they had reserved.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.builders import TOPICS, FakeReferences, activate, partition, policy, record, tick
from tests.unit.admission.messages import Clock

from sluice.admission.point import AdmissionPoint
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.enforcement.policy import Policy
from sluice.errors import OutsideError
from sluice.metering.prices import default_book
from sluice.wire.codec import decode, encode

LIMITS = {"tenant": 1000, "project": 700}
POLICY = policy("""
policy_id: hard
budgets:
  - budget_id: tenant
    scope: [tenant_id]
    limit: "0.000000001"
    period: day
    hard: true
    lease_wait_ms: 0
  - budget_id: project
    scope: [tenant_id, project_id]
    limit: "0.0000000007"
    period: day
    hard: true
    lease_wait_ms: 0
    parent: tenant
""")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.sampled_from("ab"), st.sampled_from("pq"),
                  st.integers(1, 300)),
        st.tuples(st.just("commit"), st.sampled_from("ab"), st.just(""), st.integers(0, 150)),
        st.tuples(st.just("release"), st.sampled_from("ab"), st.just(""), st.just(0)),
        st.tuples(st.just("cut"), st.sampled_from("ab"), st.just(""), st.integers(0, 1)),
        st.tuples(st.just("pause"), st.just(""), st.just(""), st.integers(1, 6)),
        st.tuples(st.just("wait"), st.just(""), st.just(""), st.sampled_from([1, 6, 6, 70, 200])),
    ),
    max_size=50,
)  # fmt: skip
# What was spent while nothing could be emitted is told after much else was spent.
TOLD_LATE = [
    ("reserve", "a", "p", 300), ("pause", "", "", 1), ("reserve", "a", "p", 10),
    ("cut", "a", "", 1), ("commit", "a", "", 100), ("cut", "a", "", 0), ("commit", "a", "", 100),
    *[("pause", "", "", 1), ("reserve", "a", "p", 150), ("commit", "a", "", 100)] * 6,
    ("wait", "", "", 6),
]  # fmt: skip


class House:
    """Gateways and a meter."""

    def __init__(self, names: str = "ab", in_force: Policy = POLICY) -> None:
        self.clock = Clock()
        references = FakeReferences()
        self.part = partition(references)
        self.offset = 0
        self.points: dict[str, AdmissionPoint] = {}
        self.wires = {name: Wire(self, name) for name in names}
        self.running: dict[str, list[tuple[Reservation, int]]] = {name: [] for name in names}
        self.bound = self.admitted = 0
        for name in self.running:
            point = AdmissionPoint(None, self.wires[name], clock=self.clock)
            point.adopt(point.empty_state())
            self.points[name] = point
        for put in (default_book(), in_force):
            self.apply(activate(self.offset, references.put(put)))

    def apply(self, made: Any) -> None:
        """One record of the topic, and what it does to the gateways."""
        self.offset += 1
        self.part.apply([made])
        for out in self.part.take():
            if out.topic == TOPICS.control:
                for point in self.points.values():
                    point.apply(0, out.key, out.value)

    def step(self, what: str, name: str, project: str, number: int) -> None:
        if what == "pause":
            self.clock.now += number * 1_000_000
        elif what == "wait":
            self.clock.now += number * 1_000_000
            self.apply(tick(self.offset, self.clock.now))
            for point in self.points.values():
                point.report()
        elif what == "reserve":
            request = AdmissionRequest("acme", project, "m", estimated_cost_pusd=number)
            try:
                self.running[name].append((self.points[name].reserve(request), number))
                self.admitted += 1
            except Refused:
                pass
        elif what == "cut":
            self.wires[name].away = bool(number)
        elif self.running[name]:
            reservation, reserved = self.running[name].pop(0)
            if what == "release":
                reservation.release()
                return
            spent = reserved * number // 100
            self.bound += max(0, spent - reserved)
            try:
                with reservation:
                    reservation.progress(cost_pusd=spent, cost_source="provider")
            except OutsideError:
                pass  # its event goes with a later report

    def settled(self) -> dict[str, int]:
        """The largest sum of any ledger of each budget."""
        found = dict.fromkeys(LIMITS, 0)
        for key, ledger in self.part.state.ledgers.items():
            found[key.budget_id] = max(found[key.budget_id], ledger.settled)
        return found


class Wire:
    """An emitter that writes into the topic at once, and takes nothing while `away`."""

    def __init__(self, house: House, source: str) -> None:
        self._house = house
        self.source, self.source_epoch = source, f"{source}1"
        self.away = False
        self._seq = 0

    def emit(self, event: Mapping[str, Any]) -> None:
        """Usage, with the next number."""
        self._stop_if_away()
        self._seq += 1
        own = {"source": self.source, "source_epoch": self.source_epoch, "source_seq": self._seq}
        fields = {"event_id": f"{self.source}-{self._seq}", **event, **own}
        self._put(fields, "UsageEvent")

    def report(self, report: Mapping[str, Any]) -> str:
        """A report, behind all usage so far."""
        self._stop_if_away()
        own = {"holder": self.source, "source_epoch": self.source_epoch, "last_seq": self._seq}
        self._put({**report, **own}, "HolderReport")
        return self.source_epoch

    def _stop_if_away(self) -> None:
        if self.away:
            raise OutsideError("the spool is full")

    def _put(self, fields: dict[str, Any], name: str) -> None:
        house = self._house
        fields = decode(encode(name, fields))[1]
        house.apply(record(house.offset, fields, at=house.clock.now, name=name))


@settings(max_examples=100, deadline=None)
@given(drawn=steps)
@example(drawn=TOLD_LATE)
def test_overshoot_is_what_requests_took_beyond_their_reservation(
    drawn: list[tuple[str, str, str, int]],
) -> None:
    """Of the tenant and of each project, however requests, reports, silences and cuts fall."""
    house = House()
    for step in drawn:
        house.step(*step)
        for budget_id, settled in house.settled().items():
            assert settled <= LIMITS[budget_id] + house.bound, budget_id


def test_a_budget_is_used_up_and_not_overrun() -> None:
    """Two gateways that never stop asking spend all but less than one request, and no more."""
    house = House()
    for _ in range(120):
        for name in "ab":
            house.step("reserve", name, "p", 30)
            house.step("reserve", name, "q", 30)
            house.step("commit", name, "", 100)
            house.step("commit", name, "", 100)
        house.step("wait", "", "", 6)
    settled = house.settled()
    over = max(0, settled["tenant"] - LIMITS["tenant"])
    print(f"overshoot measured / bound: {over} / {house.bound} pusd")
    assert house.bound == 0
    assert 1000 - 30 < settled["tenant"] <= 1000


ALONE = policy("""
policy_id: hard
budgets:
  - {budget_id: tenant, scope: [tenant_id], limit: "0.000000001", period: day, hard: true,
     lease_wait_ms: 0, refresh_after_ms: 1000}
""")


def test_many_gateways_leave_less_than_one_request() -> None:
    """What is left of each one's lease is put together while they go on asking."""
    house, sizes = House("abcdefgh", ALONE), random.Random(1)
    for _ in range(20):
        for name in house.running:
            house.step("reserve", name, "p", sizes.randint(60, 96))
            house.step("commit", name, "", sizes.randint(60, 100))
        house.step("wait", "", "", 1)
    left = 1000 - house.settled()["tenant"]
    print(f"left over / largest request: {left} / 96 pusd")
    assert 0 <= left < 96


def test_usage_that_nobody_reserved_gives_no_room() -> None:
    """Usage of the process beside its reservations counts, and is not there to be spent again."""
    house = House("a", ALONE)
    house.step("reserve", "a", "p", 100)
    house.step("commit", "a", "", 100)
    now = house.clock.now
    house.wires["a"].emit({
        "event_type": "inference", "occurred_at": now, "started_at": now, "tenant_id": "acme",
        "project_id": "p", "operation_name": "chat", "provider_name": "", "request_model": "m",
        "outcome": "ok", "cost_pusd": 400, "cost_source": "provider",
    })  # fmt: skip
    for _ in range(30):
        house.step("wait", "", "", 1)
        house.step("reserve", "a", "p", 100)
        house.step("commit", "a", "", 100)
    assert 900 < house.settled()["tenant"] <= 1000


def test_what_has_no_price_is_limited_by_its_estimates() -> None:
    """The meter counts nothing, the gateway its reservations; they end at the limit."""
    house = House("a", ALONE)
    for _ in range(60):
        house.step("wait", "", "", 1)
        house.step("reserve", "a", "p", 50)
        for reservation, _reserved in house.running["a"]:
            reservation.commit(input_tokens=1)
        house.running["a"].clear()
    assert (house.admitted, house.settled()["tenant"]) == (20, 0)
