"""Laws of waiting in turn: classes first, tenants in proportion, nobody for ever."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sluice.admission.queueing import AGE_US, PRIORITIES, FairQueue, Gate

NOW = 1_800_000_000_000_000
joins = st.lists(st.tuples(st.sampled_from(PRIORITIES), st.sampled_from("abc")), max_size=40)


def drained(queue: FairQueue, now: int) -> list[tuple[int, str, int]]:
    """Class, tenant and joining time of every ticket in its turn."""
    found = []
    while (ticket := queue.pop(now)) is not None:
        found.append((ticket.rank, ticket.tenant_id, ticket.joined_at))
    return found


@given(joins)
def test_everybody_goes_once_and_classes_go_in_order(members: list[tuple[str, str]]) -> None:
    """Nothing is lost or doubled; before ageing no lower class goes before a higher one."""
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
    """A batch request goes at the latest when it has aged to the top and its turn comes."""
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
