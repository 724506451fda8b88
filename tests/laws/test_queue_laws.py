"""Laws of waiting in turn: classes first, tenants in proportion, nobody for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.admission.queueing import AGE_US, PRIORITIES, SERVED_US, FairQueue, Gate, Ticket

NOW = 1_800_000_000_000_000
joins = st.lists(st.tuples(st.sampled_from(PRIORITIES), st.sampled_from("abc")), max_size=40)
# Weights of tenants, and what happens: (µs since before, who joins or None for a turn).
WEIGHTS = {"b": 3, "c": 2}
courses = st.lists(
    st.tuples(st.sampled_from([0, 1, 400_000, AGE_US, 3 * AGE_US, SERVED_US // 2]),
              st.none() | st.tuples(st.sampled_from(PRIORITIES), st.sampled_from("abcd"))),
    max_size=60,
)  # fmt: skip
Course = list[tuple[int, tuple[str, str] | None]]


class Slow:
    """The order as it is said, by looking at everything that ever happened."""

    def __init__(self) -> None:
        self.waiting: list[Ticket] = []
        self.served: list[tuple[int, Ticket]] = []
        # Since when each class has had somebody waiting.
        self.since: dict[int, int] = {}

    def join(self, ticket: Ticket, now: int) -> None:
        if all(other.rank != ticket.rank for other in self.waiting):
            self.since[ticket.rank] = now
        self.waiting.append(ticket)

    def waits_us(self, rank: int, now: int) -> int:
        """How long a class has waited for a turn."""
        turns = [at for at, ticket in self.served if ticket.rank == rank]
        return now - max([self.since[rank], *turns])

    def turns(self, rank: int, tenant_id: str, now: int) -> int:
        """How many turns a tenant had in a class within the last minute."""
        return sum(
            (ticket.rank, ticket.tenant_id) == (rank, tenant_id) and at > now - SERVED_US
            for at, ticket in self.served
        )

    def next(self, now: int) -> Ticket:
        classes = {ticket.rank for ticket in self.waiting}
        rank = min(classes, key=lambda rank: (
            max(0, rank - self.waits_us(rank, now) // AGE_US), -self.waits_us(rank, now)
        ))  # fmt: skip
        return min(
            (ticket for ticket in self.waiting if ticket.rank == rank),
            key=lambda t: (
                Fraction(self.turns(rank, t.tenant_id, now), WEIGHTS.get(t.tenant_id, 1)), t.number
            ),
        )  # fmt: skip

    def serve(self, ticket: Ticket, now: int) -> None:
        self.waiting.remove(ticket)
        self.served.append((now, ticket))


def walked(course: Course) -> Iterator[tuple[Slow, Ticket, int]]:
    """Every turn of a course: what was before it, who had it, and when."""
    queue, slow, now = FairQueue(WEIGHTS), Slow(), NOW
    for passed_us, who in course:
        now += passed_us
        if who is not None:
            slow.join(queue.join(*who, now), now)
        elif slow.waiting:
            ticket = queue.pop(now)
            assert ticket is not None
            yield slow, ticket, now
            slow.serve(ticket, now)
        else:
            assert queue.pop(now) is None


@settings(max_examples=300)
@given(courses)
def test_turns_go_as_a_slow_count_of_everything_has_it(course: Course) -> None:
    """The class that stands highest, of it the tenant with least turns for its weight."""
    for slow, ticket, now in walked(course):
        assert ticket is slow.next(now)


@given(courses)
def test_whoever_had_no_turn_for_a_minute_is_passed_by_nobody_who_came_later(
    course: Course,
) -> None:
    """So a tenant goes after a minute and those of its class that came before it, at the latest."""
    for slow, ticket, now in walked(course):
        for other in slow.waiting:
            if other.rank == ticket.rank and not slow.turns(other.rank, other.tenant_id, now):
                assert ticket.number <= other.number


@given(courses)
def test_a_class_that_moved_to_the_top_lets_each_other_class_go_once(course: Course) -> None:
    """So a class has a turn after AGE_US for each class above it and two turns, at the latest."""
    passed: Counter[int] = Counter()
    for slow, ticket, now in walked(course):
        passed[ticket.rank] = 0
        for rank in {other.rank for other in slow.waiting} - {ticket.rank}:
            on_top = slow.waits_us(rank, now) >= rank * AGE_US
            passed[rank] = passed[rank] + 1 if on_top else 0
            assert rank == 0 or passed[rank] <= len(PRIORITIES) - 1


@given(st.sampled_from(PRIORITIES), st.integers(0, 5), st.integers(1, 3), st.randoms())
def test_nobody_starves_in_any_flood(priority: str, before: int, flood: int, drawn: Any) -> None:
    """A request goes in the end, however many others come, of whatever class and tenant."""
    queue, now, every_us = FairQueue(), NOW, 1_000_000
    for _ in range(before):
        queue.join(priority, drawn.choice("abc"), now)
    mine = queue.join(priority, "mine", now)
    for _ in range(flood * 50):
        queue.join(drawn.choice(PRIORITIES), drawn.choice("abcdefgh"), now)
    top_us = PRIORITIES.index(priority) * AGE_US + len(PRIORITIES) * every_us
    while queue.pop(now) is not mine:
        now += every_us
        for _ in range(flood):
            queue.join(drawn.choice(PRIORITIES), drawn.choice("abcdefgh"), now)
        assert now - NOW <= SERVED_US + (before + 1) * top_us, "it waits for ever"


def test_a_late_tenant_is_not_behind_the_line_of_an_early_one() -> None:
    """Nor does what waits for long pass what is fresh in the same class."""
    queue = FairQueue()
    heavy = [queue.join("standard", "heavy", NOW) for _ in range(3)]
    assert queue.pop(NOW) is heavy[0]
    now = NOW + 3 * AGE_US
    light = queue.join("standard", "light", now)
    assert queue.pop(now) is light
    queue.leave(heavy[1])
    assert queue.pop(now) is heavy[2]
    assert queue.pop(now) is None


def drained(queue: FairQueue, now: int) -> list[tuple[int, str, int]]:
    """Class, tenant and number of every ticket in its turn."""
    found = []
    while (ticket := queue.pop(now)) is not None:
        found.append((ticket.rank, ticket.tenant_id, ticket.number))
    return found


@given(joins)
def test_everybody_goes_once_and_classes_go_in_order(members: list[tuple[str, str]]) -> None:
    """Nothing is lost or doubled; before a class moves up none goes before a higher one."""
    queue = FairQueue()
    for number, (priority, tenant) in enumerate(members):
        queue.join(priority, tenant, NOW + number)
    assert len(queue) == len(members)
    served = drained(queue, NOW + len(members))
    assert [rank for rank, _, _ in served] == sorted(rank for rank, _, _ in served)
    assert Counter(t for _, t, _ in served) == Counter(tenant for _, tenant in members)
    for name in {(rank, tenant) for rank, tenant, _ in served}:
        line = [at for rank, tenant, at in served if (rank, tenant) == name]
        assert line == sorted(line), "a tenant's requests of one class keep their order"


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_tenants_share_by_weight(a: int, b: int, late: int) -> None:
    """While both wait, turns are in the ratio of the weights, whoever came first."""
    queue = FairQueue({"a": a, "b": b})
    for number in range(200):
        queue.join("standard", "a", NOW + number)
    for number in range(200):
        queue.join("standard", "b", NOW + late + number)
    rounds = 10 * (a + b)
    turns = Counter(t for _, t, _ in drained(queue, NOW)[: min(rounds, 200)])
    share = min(rounds, 200) * a / (a + b)
    assert abs(turns["a"] - share) <= 2


@given(st.integers(1, 50))
def test_a_stream_of_guaranteed_requests_starves_nobody(flow: int) -> None:
    """A batch request goes at the latest when its class has moved to the top."""
    queue = FairQueue()
    batch = queue.join("batch", "slow", NOW)
    now, served = NOW, 0
    while queue.pop(now) is not batch:
        served += 1
        now += AGE_US // flow
        queue.join("guaranteed", "busy", now)
        queue.join("guaranteed", "busy", now)
        assert served <= 2 * flow + 2 * len(PRIORITIES), "it waits for ever"


@given(joins, st.data())
def test_leaving_takes_only_the_leaver(members: list[tuple[str, str]], data: st.DataObject) -> None:
    """Whoever stays goes in the order among themselves."""
    queue, everybody = FairQueue(), []
    for number, (priority, tenant) in enumerate(members):
        everybody.append(queue.join(priority, tenant, NOW + number))
    leavers = data.draw(st.sets(st.sampled_from(range(len(members))))) if members else set()
    for number in leavers:
        queue.leave(everybody[number])
        queue.leave(everybody[number])
    stayed = Counter(t.tenant_id for n, t in enumerate(everybody) if n not in leavers)
    assert Counter(t for _, t, _ in drained(queue, NOW)) == stayed
    assert len(queue) == 0


@given(joins, st.integers(1, 5))
def test_a_gate_never_runs_more_than_its_width(members: list[tuple[str, str]], width: int) -> None:
    """Whatever joins and ends, at most so many run at once, and all run in the end."""
    gate, through, most = Gate(), 0, 0
    for number, (priority, tenant) in enumerate(members):
        gate.queue.join(priority, tenant, NOW + number)
        through += len(gate.move(None, width, NOW + number))
        most = max(most, gate.running)
    while gate.running:
        gate.running -= 1
        through += len(gate.move(None, width, NOW))
        most = max(most, gate.running)
    assert (through, most <= width) == (len(members), True)
