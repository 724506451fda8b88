"""What is held of the control topic, and what meets a request."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import usage
from tests.unit.admission.messages import MINUTE_US, NOW, decision, heartbeat, key_of, lease, slow

from sluice.admission import control_state
from sluice.admission.control_state import Applied, ControlState
from sluice.admission.verdict import AdmissionRequest
from sluice.wire.codec import encode

ACME = AdmissionRequest("acme", "chat", "m1")


def actions(state: ControlState, request: AdmissionRequest = ACME, now: int = NOW) -> set[str]:
    """Actions in force for a request."""
    return {match.effect.action for match in state.matching(request, now)}


def put(state: ControlState, value: bytes | None, key: bytes | None = None) -> Applied | None:
    """Apply one message of partition 0."""
    return state.apply(0, key_of() if key is None else key, value, NOW)


@pytest.mark.parametrize("version", [(1, 5), (1, 4), (0, 9)])
def test_only_a_greater_version_counts(version: tuple[int, int]) -> None:
    """An equal or lower (epoch, sequence) changes nothing and is counted as stale."""
    state = ControlState()
    put(state, decision("block", epoch=1, sequence=5))
    assert put(state, decision("allow", epoch=version[0], sequence=version[1])) is None
    assert actions(state) == {"block"}
    assert state.counts["stale"] == 1


@pytest.mark.parametrize("version", [(1, 6), (2, 0)])
def test_a_newer_message_replaces_the_one_held(version: tuple[int, int]) -> None:
    """A higher sequence, or any sequence of a higher epoch, takes the place of what was held."""
    state = ControlState()
    put(state, decision("block", epoch=1, sequence=5))
    applied = put(state, decision("allow", epoch=version[0], sequence=version[1]))
    assert applied is not None
    assert applied.decision is state.decisions[key_of()]
    assert actions(state) == {"allow"}


def test_a_tombstone_lifts_and_old_news_does_not_come_back() -> None:
    """After a tombstone the lifted version stays refused, a newer one is taken."""
    state = ControlState()
    put(state, decision("block", sequence=5))
    lifted = put(state, None)
    assert lifted is not None
    assert (lifted.kind, actions(state)) == ("lifted", set())
    assert put(state, decision("block", sequence=5)) is None
    assert actions(state) == set()
    put(state, decision("block", sequence=6))
    assert actions(state) == {"block"}


def test_memory_of_lifted_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the key lifted longest ago is forgotten, the others are not."""
    monkeypatch.setattr(control_state, "MAX_LIFTED", 2)
    state = ControlState()
    for rule in ("a", "b", "c"):
        put(state, decision(), key_of(rule))
        put(state, None, key_of(rule))
    taken = [put(state, decision(), key_of(rule)) is not None for rule in ("a", "b", "c")]
    assert taken == [True, False, False]


@pytest.mark.parametrize(
    "value",
    [b"", b"garbage", decision()[:-3], decision() + b"x", b"\xc3\x01" + bytes(20),
     encode("UsageEvent", usage()), heartbeat(7)],
)  # fmt: skip
def test_garbage_is_counted_and_ignored(value: bytes) -> None:
    """Unreadable values, foreign records and another partition's heartbeat change nothing."""
    state = ControlState()
    put(state, decision("block"))
    assert put(state, value) is None
    assert (state.counts["garbage"], actions(state)) == (1, {"block"})


def test_a_message_without_key_is_garbage() -> None:
    """A message without a key names nothing that it could replace."""
    state = ControlState()
    assert state.apply(0, None, decision(), NOW) is None
    assert state.counts["garbage"] == 1


def test_a_tombstone_of_an_unknown_key_changes_nothing() -> None:
    """Lifting what is not held is counted apart from real lifts."""
    state = ControlState()
    assert put(state, None) is None
    assert (state.counts["lifted"], state.counts["lifted_unknown"]) == (0, 1)


@pytest.mark.parametrize(
    ("over", "count"),
    [
        ({"action": "freeze"}, "unknown_action"),
        ({"action": "rate_limit", "params": {}}, "unusable_rate"),
        ({"action": "rate_limit", "params": {"rate_per_minute": 0, "burst": 1}}, "unusable_rate"),
        ({"action": "rate_limit", "params": {"rate_per_minute": 5, "burst": 0}}, "unusable_rate"),
    ],
)
def test_what_is_not_understood_blocks(over: dict[str, Any], count: str) -> None:
    """Unknown actions and limits without a usable rate block, are counted and explained."""
    state = ControlState()
    put(state, decision(**over))
    (match,) = state.matching(ACME, NOW)
    assert (match.effect.action, match.effect.refuses, state.counts[count]) == ("block", True, 1)
    assert match.decision.published_action == over["action"]
    assert "so it blocks" in match.decision.notes[0].sentence


def test_conditions_that_the_gateway_cannot_see_to_block() -> None:
    """A gateway without a queue blocks where it should queue, and still carries out its caps."""
    state = ControlState({"allow_with_caps"})
    put(state, decision("queue"), key_of("a"))
    put(state, decision("allow_with_caps"), key_of("b"))
    assert actions(state) == {"block", "allow_with_caps"}
    assert state.counts["not_carried_out"] == 1


def test_unknown_reason_codes_are_kept_as_they_are() -> None:
    """A reason code from a newer controller is held untouched."""
    state = ControlState()
    put(state, decision(reason_code="MOON_PHASE"))
    assert state.decisions[key_of()].reason_code == "MOON_PHASE"


def test_shadow_decisions_are_held_but_never_match() -> None:
    """A shadow decision is there for display and meets no request."""
    state = ControlState()
    put(state, decision(mode="shadow"))
    assert key_of() in state.decisions
    assert actions(state) == set()


def test_an_unknown_mode_is_enforced() -> None:
    """A mode that is neither enforce nor shadow is obeyed, and counted."""
    state = ControlState()
    put(state, decision(mode="rehearse"))
    assert (actions(state), state.counts["unknown_mode"]) == ({"block"}, 1)


def test_a_delayed_decision_waits() -> None:
    """A decision issued for later begins at its time and not before."""
    state = ControlState()
    put(state, decision(effective_at=NOW + MINUTE_US))
    assert actions(state, now=NOW + MINUTE_US - 1) == set()
    assert actions(state, now=NOW + MINUTE_US) == {"block"}


def test_an_immediate_decision_does_not_wait_for_a_slow_clock() -> None:
    """Where this clock is behind the broker's, a decision without a delay counts all the same."""
    state = ControlState()
    put(state, decision())
    assert actions(state, now=NOW - MINUTE_US) == {"block"}


@pytest.mark.parametrize(
    ("on_expiry", "after"),
    [("open", None), ("keep", (False, True)), ("closed", (True, True)),
     ("safe_limit", (True, True)), ("someday", (True, True))],
)  # fmt: skip
def test_expiry_of_a_block(on_expiry: str, after: tuple[bool, bool] | None) -> None:
    """Expired: open leaves nothing, keep goes on, the others refuse as stale (no safe rate)."""
    state = ControlState()
    put(state, decision(on_expiry=on_expiry, expires_at=NOW + 10))
    assert actions(state, now=NOW + 9) == {"block"}
    effects = [match.effect for match in state.matching(ACME, NOW + 10)]
    assert [(e.stale, e.refuses) for e in effects] == ([] if after is None else [after])


def test_safe_limit_admits_at_its_rate_once_expired() -> None:
    """A block with a safe limit becomes a rate limit when nobody renews it."""
    state = ControlState()
    params = {"rate_per_minute": 6, "burst": 3}
    put(state, decision(on_expiry="safe_limit", params=params, expires_at=NOW + 10))
    (match,) = state.matching(ACME, NOW + 10)
    assert (match.effect.action, match.effect.rate, match.effect.stale) == (
        "rate_limit", (6, 3), True,
    )  # fmt: skip


def test_an_expired_allow_leaves_nothing() -> None:
    """The news that a limit was lifted does not refuse anybody when it grows old."""
    state = ControlState()
    put(state, decision("allow", on_expiry="closed", expires_at=NOW + 10))
    assert actions(state, now=NOW + 10) == set()


def test_a_rate_limit_without_burst_lets_one_second_through_at_once() -> None:
    """The burst that is not given is a second's worth, at least one request."""
    state = ControlState()
    put(state, slow(params={"rate_per_minute": 600}), key_of("a"))
    put(state, slow(params={"rate_per_minute": 5}), key_of("b"))
    rates = [state.decisions[key_of(rule)].effect.rate for rule in ("a", "b")]
    assert rates == [(600, 10), (5, 1)]


@pytest.mark.parametrize(
    ("scope", "meets"),
    [
        ({}, True),
        ({"tenant_id": "acme"}, True),
        ({"tenant_id": "acme", "model": "m1"}, True),
        ({"tenant_id": "acme", "model": "m2"}, False),
        ({"tenant_id": "other"}, False),
        ({"model": "m1"}, True),
        ({"tenant_id": "acme", "task_id": "t"}, False),
        ({"tenant_id": "acme", "priority": "standard"}, True),
        ({"tenant_id": "acme", "priority": "batch"}, False),
    ],
)
def test_a_decision_meets_requests_of_its_scope(scope: dict[str, str], meets: bool) -> None:
    """Every field of the scope must be the request's; a field left out means any."""
    state = ControlState()
    put(state, decision(scope=scope))
    assert bool(state.matching(ACME, NOW)) is meets


def test_look_up_does_not_grow_with_decisions() -> None:
    """A thousand tenants' decisions of two kinds of scope cost a request two look-ups."""
    state = ControlState()
    for number in range(1000):
        tenant = {"tenant_id": f"t{number}"}
        put(state, decision(scope=tenant), key_of(f"a{number}"))
        put(state, decision(scope=tenant | {"model": "m1"}), key_of(f"b{number}"))
    assert [len(group.lookups) for group in state._groups.values()] == [2] * 1000
    assert len(state.matching(AdmissionRequest("t7", model="m1"), NOW)) == 2
    for number in range(1000):
        put(state, None, key_of(f"b{number}"))
    assert [len(group.lookups) for group in state._groups.values()] == [1] * 1000


def test_a_key_that_moves_to_another_scope_leaves_the_old_one() -> None:
    """A message whose scope differs from the one it replaces is found in its new place only."""
    state = ControlState()
    put(state, decision(sequence=1))
    put(state, decision(sequence=2, scope={"tenant_id": "other"}))
    assert actions(state) == set()
    assert actions(state, AdmissionRequest("other")) == {"block"}


def test_staleness_is_that_of_the_longest_silent_partition() -> None:
    """Heartbeats and decisions count per partition; the oldest of them is told."""
    state = ControlState()
    assert state.staleness(NOW) is None
    state.apply(0, b"heartbeat|0", heartbeat(0, issued_at=NOW - 500), NOW)
    state.apply(1, key_of(), decision(issued_at=NOW - 900), NOW)
    assert state.staleness(NOW) == 900
    state.apply(1, b"heartbeat|1", heartbeat(1, issued_at=NOW - 100), NOW)
    assert state.staleness(NOW) == 500


def test_a_silent_partition_counts_from_when_it_was_expected() -> None:
    """A partition never heard is as stale as the time since it is followed; a heard one is not."""
    state = ControlState()
    state.apply(0, b"heartbeat|0", heartbeat(0, issued_at=NOW - 7), NOW)
    state.expect([0, 1, 2], NOW)
    assert state.staleness(NOW) == 7
    state.apply(0, b"heartbeat|0", heartbeat(0, issued_at=NOW + 50, sequence=2), NOW + 50)
    assert state.staleness(NOW + 60) == 60


def test_the_owner_of_what_spans_tenants_has_a_silence_of_its_own() -> None:
    """The last partition's silence never counts for tenants; it is told once it was heard."""
    state = ControlState()
    state.expect([0, 1], NOW)
    state.apply(0, b"heartbeat|0", heartbeat(0, issued_at=NOW + 50), NOW + 50)
    assert (state.staleness(NOW + 60), state.across_staleness(NOW + 60)) == (10, None)
    beat = heartbeat(1, issued_at=NOW + 20, of_tenants=False)
    state.apply(1, b"heartbeat|1", beat, NOW + 50)
    assert (state.staleness(NOW + 60), state.across_staleness(NOW + 60)) == (10, 40)


def test_a_last_partition_with_usage_counts_for_tenants() -> None:
    """Where tenants have their usage in every partition, as of old, all of them count."""
    state = ControlState()
    state.expect([0, 1], NOW)
    for number, later in ((1, 20), (0, 50)):
        beat = heartbeat(number, issued_at=NOW + later)
        state.apply(number, b"heartbeat|%d" % number, beat, NOW + 50)
    assert (state.staleness(NOW + 60), state.across_staleness(NOW + 60)) == (40, None)


def test_heartbeats_of_an_idle_partition_count() -> None:
    """On an idle partition only the time of a heartbeat moves; an old owner's is ignored."""
    state = ControlState()
    state.apply(0, b"heartbeat|0", heartbeat(epoch=2), NOW)
    state.apply(0, b"heartbeat|0", heartbeat(epoch=2, issued_at=NOW + 10), NOW + 10)
    assert state.staleness(NOW + 10) == 0
    state.apply(0, b"heartbeat|0", heartbeat(epoch=1, issued_at=NOW + 20), NOW + 20)
    assert state.staleness(NOW + 20) == 10


def test_a_fast_clock_elsewhere_claims_no_freshness_ahead() -> None:
    """Messages from the future count as heard now, so that silence after them is seen."""
    for message in (heartbeat(issued_at=NOW + MINUTE_US), decision(issued_at=NOW + MINUTE_US)):
        state = ControlState()
        state.apply(0, b"key", message, NOW)
        assert state.staleness(NOW + 5) == 5


def test_lease_grants_follow_the_same_rule() -> None:
    """The newest grant of a key is held, an older one ignored, a tombstone removes it."""
    state = ControlState()
    put(state, lease(sequence=2, granted_total=9), b"lease")
    assert put(state, lease(sequence=1), b"lease") is None
    assert state.leases[b"lease"]["granted_total"] == 9
    put(state, None, b"lease")
    assert state.leases == {}
