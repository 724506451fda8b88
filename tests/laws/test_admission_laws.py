"""Laws of the admission point: newest message wins, rates hold, nothing breaks the reader."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.admission.messages import NOW, decision, key_of

from sluice.admission.control_state import ControlState
from sluice.admission.rate import Buckets, Limit, Rate
from sluice.admission.verdict import AdmissionRequest

TENANTS = ("a", "b", "c")
versions = st.tuples(st.integers(0, 2), st.integers(0, 5))
published = st.lists(st.tuples(st.sampled_from(TENANTS), versions), max_size=30)


def value(tenant: str, version: tuple[int, int]) -> bytes:
    """The one decision of a tenant at a version."""
    epoch, sequence = version
    return decision(
        decision_id=f"{tenant}-{epoch}-{sequence}", scope={"tenant_id": tenant},
        epoch=epoch, sequence=sequence,
    )  # fmt: skip


def in_force(state: ControlState) -> dict[str, str]:
    """Decision that a request of each tenant meets."""
    found = {t: state.matching(AdmissionRequest(t), NOW) for t in TENANTS}
    assert all(len(matches) <= 1 for matches in found.values())
    return {t: matches[0].decision.decision_id for t, matches in found.items() if matches}


@given(published, st.data())
def test_any_order_and_repetition_gives_the_newest_per_key(
    messages: list[tuple[str, tuple[int, int]]], data: st.DataObject
) -> None:
    """Duplicates and late arrivals in any order leave each key with its highest version."""
    again = data.draw(st.lists(st.sampled_from(messages), max_size=10)) if messages else []
    shuffled = data.draw(st.permutations(messages + again))
    state = ControlState()
    for tenant, version in shuffled:
        state.apply(0, key_of(scope=tenant), value(tenant, version), NOW)
    newest = {t: max(v for u, v in messages if u == t) for t, _ in messages}
    assert in_force(state) == {t: f"{t}-{e}-{s}" for t, (e, s) in newest.items()}
    assert state.counts["applied"] + state.counts["stale"] == len(shuffled)


@given(st.lists(st.tuples(st.sampled_from(TENANTS), st.none() | versions), max_size=40))
def test_what_was_lifted_comes_back_only_with_a_higher_version(
    messages: list[tuple[str, tuple[int, int] | None]],
) -> None:
    """With tombstones in between, a key holds what a model with unbounded memory holds."""
    state, highest, held = ControlState(), dict[str, tuple[int, int]](), dict[str, str]()
    for tenant, version in messages:
        key = key_of(scope=tenant)
        if version is None:
            state.apply(0, key, None, NOW)
            held.pop(tenant, None)
            continue
        state.apply(0, key, value(tenant, version), NOW)
        if version > highest.get(tenant, (-1, -1)):
            highest[tenant] = version
            held[tenant] = f"{tenant}-{version[0]}-{version[1]}"
    assert in_force(state) == held
    assert len(state._groups) == len(held), "nothing is left of what was lifted"


FIELDS = ("tenant_id", "project_id", "model")
scopes = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from("ab"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.none() | scopes), max_size=40))
def test_what_meets_a_request_is_found_whatever_came_and_went(
    messages: list[tuple[int, dict[str, str] | None]],
) -> None:
    """As by looking at every decision: of one tenant or any, moved between scopes and lifted."""
    state, held = ControlState(), dict[int, dict[str, str]]()
    for sequence, (number, scope) in enumerate(messages, 1):
        key = f"decision|p|r{number}|enforce||".encode()
        if scope is None:
            state.apply(0, key, None, NOW)
            held.pop(number, None)
            continue
        put = decision(scope=scope, decision_id=str(number), epoch=1, sequence=sequence)
        state.apply(0, key, put, NOW)
        held[number] = scope
    for values in itertools.product("abc", repeat=len(FIELDS)):
        asked = dict(zip(FIELDS, values, strict=True))
        request = AdmissionRequest(**asked)
        found = sorted(int(match.decision.decision_id) for match in state.matching(request, NOW))
        assert found == sorted(n for n, scope in held.items() if scope.items() <= asked.items())
    assert bool(state._of_any.table) == any("tenant_id" not in scope for scope in held.values())


steps = st.lists(st.tuples(st.integers(0, 20_000_000), st.integers(1, 5)), max_size=60)


@given(st.integers(1, 100_000), st.integers(1, 50), steps)
def test_a_bucket_never_grants_more_than_rate_times_time_and_burst(
    per_minute: int, burst: int, waits: list[tuple[int, int]]
) -> None:
    """Between any two instants at most rate x time + burst requests are admitted."""
    buckets, limit, now = Buckets(), Limit(b"k", Rate(per_minute, burst)), NOW
    grants = []
    for wait_us, asked in waits:
        now += wait_us
        grants += [now for _ in range(asked) if buckets.take([limit], now) is None]
    for first, start in enumerate(grants):
        for last in range(first, len(grants)):
            spent = last - first + 1
            assert (spent - burst) * 60_000_000 <= per_minute * (grants[last] - start)


@given(st.integers(1, 600), st.integers(1, 10), steps)
def test_whoever_waits_as_told_is_admitted(
    per_minute: int, burst: int, waits: list[tuple[int, int]]
) -> None:
    """The wait of a shortage is exact: a microsecond less is too short, and the rate holds."""
    buckets, limit, now, admitted = Buckets(), Limit(b"k", Rate(per_minute, burst)), NOW, 0
    for wait_us, asked in waits:
        now += wait_us
        for _ in range(asked):
            shortage = buckets.take([limit], now)
            if shortage is not None:
                assert buckets.take([limit], now + shortage.wait_us - 1) is not None
                now += shortage.wait_us
                assert buckets.take([limit], now) is None
            admitted += 1
    assert (admitted - burst) * 60_000_000 <= per_minute * (now - NOW)


@given(st.binary(max_size=80), st.integers(0, 400), st.integers(0, 255))
def test_no_bytes_break_the_reader(tail: bytes, place: int, byte: int) -> None:
    """Random values and damaged decisions are taken or counted, never raised."""
    state, damaged = ControlState(), bytearray(value("a", (1, 1)))
    damaged[place % len(damaged)] = byte
    for number, message in enumerate((tail, damaged[:10] + tail, bytes(damaged))):
        state.apply(0, b"%d" % number, bytes(message), NOW)
        state.matching(AdmissionRequest("a"), NOW)
    assert state.counts["applied"] + state.counts["garbage"] + state.counts["heartbeats"] == 3
