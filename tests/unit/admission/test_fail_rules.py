"""What holds where a limit is not known: each situation closed by default, open by rule."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.admission.granting import TTL_US, Grantor, reserving
from tests.unit.admission.messages import NOW, Clock, budget_rule, heartbeat, rule_key

from sluice.admission.point import AdmissionPoint, ColdStart
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.errors import OutsideError

CHAT = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10)
NAMELESS = AdmissionRequest("acme", "", "m1", estimated_cost_pusd=10)
UNPRICED = AdmissionRequest("acme", "chat", "m1")


def answer(made: AdmissionPoint, request: AdmissionRequest = CHAT) -> str | None:
    """The reason code of a refusal, None where the request was let in."""
    try:
        made.reserve(request).release()
    except Refused as error:
        return error.verdict.reason_code
    return None


def failing(situation: str, action: str, **over: Any) -> bytes:
    """A budget with one fail rule."""
    rule = [{"situation": situation, "action": action}]
    return budget_rule(fail=rule, lease_wait_ms=0, **over)


def cold_start(rule: bytes) -> tuple[AdmissionPoint, AdmissionRequest]:
    """No lease ever arrived."""
    grantor = Grantor(Clock(), b=1000)
    grantor.silent = True
    return reserving(grantor, rule), CHAT


def lease_gone(rule: bytes) -> tuple[AdmissionPoint, AdmissionRequest]:
    """The lease has expired."""
    grantor = Grantor(Clock(), b=1000)
    made = reserving(grantor, rule)
    made.reserve(CHAT).release()
    grantor.silent = True
    grantor.clock.now += TTL_US
    return made, CHAT


def control_stale(rule: bytes) -> tuple[AdmissionPoint, AdmissionRequest]:
    """The lease has no room and no source partition was heard for longer than stale_after_ms."""
    grantor = Grantor(Clock(), b=10)
    made = reserving(grantor, rule)
    made.apply(0, b"heartbeat|0", heartbeat(issued_at=NOW))
    made.reserve(CHAT).commit(cost_pusd=10)
    grantor.clock.now += 31_000_000
    return made, CHAT


def publisher_down(rule: bytes) -> tuple[AdmissionPoint, AdmissionRequest]:
    """Usage finds no way out."""
    grantor = Grantor(Clock(), b=1000)
    made = reserving(grantor, rule)
    running = made.reserve(CHAT)
    grantor.away = True
    with pytest.raises(OutsideError):
        running.commit(cost_pusd=1)
    return made, CHAT


def unknown_scope(rule: bytes) -> tuple[AdmissionPoint, AdmissionRequest]:
    """The request lacks a field that the budget has its ledgers by."""
    return reserving(Grantor(Clock(), b=1000), rule), NAMELESS


def no_price(rule: bytes) -> tuple[AdmissionPoint, AdmissionRequest]:
    """Nothing tells what the request will cost."""
    return reserving(Grantor(Clock(), b=1000), rule), UNPRICED


SCOPED = {"scope": ["tenant_id", "project_id"]}
SITUATIONS = [
    (cold_start, "LEASE_EXHAUSTED", {}), (lease_gone, "CONTROL_STALE", {}),
    (control_stale, "CONTROL_STALE", {}), (publisher_down, "PUBLISHER_DOWN", {}),
    (unknown_scope, "UNKNOWN_SCOPE", SCOPED), (no_price, "NO_PRICE", {}),
]  # fmt: skip


@pytest.mark.parametrize(("situation", "code", "over"), SITUATIONS)
def test_a_hard_budget_is_closed_unless_its_rule_is_open(
    situation: Any, code: str, over: dict[str, Any]
) -> None:
    """Refused with the situation's code by default and by name, let in where the rule says so."""
    name = situation.__name__
    assert answer(*situation(budget_rule(lease_wait_ms=0, **over))) == code
    assert answer(*situation(failing(name, "closed", **over))) == code
    assert answer(*situation(failing(name, "open", **over))) is None


@pytest.mark.parametrize(
    ("situation", "code", "over"),
    [row for row in SITUATIONS if row[0] not in (cold_start, lease_gone)],
)
def test_a_soft_budget_is_open_unless_its_rule_is_closed(
    situation: Any, code: str, over: dict[str, Any]
) -> None:
    """A soft budget lets everything in, and refuses where a rule of its says closed."""
    name = situation.__name__
    assert answer(*situation(budget_rule(hard=False, **over))) is None
    assert answer(*situation(failing(name, "closed", hard=False, **over))) == code


def test_room_in_a_lease_outlasts_a_silent_control_topic() -> None:
    """While a lease is in force its limit is known, however long nothing was heard."""
    grantor = Grantor(Clock(), b=1000)
    made = reserving(grantor)
    made.apply(0, b"heartbeat|0", heartbeat(issued_at=NOW))
    made.reserve(CHAT).release()
    grantor.clock.now += 60_000_000
    assert made.staleness() == 60_000_000
    assert answer(made) is None


def test_a_lease_that_is_used_up_is_never_open() -> None:
    """Fail rules are about limits that are not known; of a lease without room it is known."""
    rules = [{"situation": name, "action": "open"} for name in ("cold_start", "lease_gone")]
    made = reserving(Grantor(Clock(), b=10), budget_rule(fail=rules, limit=10, lease_wait_ms=0))
    made.reserve(CHAT).commit(cost_pusd=10)
    assert answer(made) == "LEASE_EXHAUSTED"


def test_what_was_let_in_without_a_lease_is_charged() -> None:
    """Usage that a fail rule let in counts against the lease that comes later."""
    grantor = Grantor(Clock(), b=1000)
    grantor.silent = True
    made = reserving(grantor, failing("cold_start", "open"))
    made.reserve(CHAT).commit(cost_pusd=10)
    (standing,) = made.snapshot()["budgets"]
    assert (standing.committed, standing.left) == (10, None)


def test_a_publisher_that_recovers_lets_requests_in_again() -> None:
    """The first thing that is taken again ends the trouble: a report at the latest."""
    grantor = Grantor(Clock(), b=1000)
    made = reserving(grantor)
    running = made.reserve(CHAT)
    grantor.away = True
    with pytest.raises(OutsideError):
        running.commit(cost_pusd=1)
    assert (answer(made), made.snapshot()["publisher_down"]) == ("PUBLISHER_DOWN", True)
    grantor.away = False
    grantor.clock.now += 1_000_000
    made.report()
    assert (answer(made), made.snapshot()["publisher_down"]) == (None, False)


ACROSS: dict[str, Any] = {"budget_id": "all", "scope": [], "source_partition": 2}


def with_rollup(grantor: Grantor, *rules: bytes) -> AdmissionPoint:
    """A point with two usage partitions and the rollup's, all of them heard at NOW."""
    made = reserving(grantor, *rules)
    made.expect([0, 1, 2])
    for number in range(3):
        beat = heartbeat(number, of_tenants=number < 2)
        made.apply(number, b"heartbeat|%d" % number, beat)
    return made


def test_silence_of_the_rollup_concerns_what_spans_tenants_only() -> None:
    """Each kind of budget that has no room is closed as stale by the silence of its own owners."""
    for silent, codes in ((2, {"b": None, "all": "CONTROL_STALE"}),
                          (1, {"b": "CONTROL_STALE", "all": None})):  # fmt: skip
        for budget, over in (("b", {}), ("all", ACROSS)):
            grantor = Grantor(Clock(), b=10, all=10)
            made = with_rollup(grantor, budget_rule(lease_wait_ms=0, **over))
            made.reserve(CHAT).commit(cost_pusd=10)
            grantor.clock.now += 31_000_000
            for number in {0, 1, 2} - {silent}:
                beat = heartbeat(number, issued_at=grantor.clock.now, of_tenants=number < 2)
                made.apply(number, b"heartbeat|%d" % number, beat)
            assert answer(made) == (codes[budget] or "LEASE_EXHAUSTED"), (silent, budget)
            snapshot = made.snapshot()
            assert (snapshot["staleness_us"] > 0) is (silent != 2)
            assert (snapshot["across_staleness_us"] > 0) is (silent == 2)


def test_where_no_rollup_was_heard_its_budgets_have_no_lease() -> None:
    """A hard budget that spans tenants is closed as cold; tenants' budgets are unaffected."""
    grantor = Grantor(Clock(), b=1000, all=1000)
    made = reserving(grantor, budget_rule())
    made.expect([0, 1, 2])
    for number in range(2):
        made.apply(number, b"heartbeat|%d" % number, heartbeat(number))
    assert answer(made) is None
    grantor.silent = True
    made.apply(2, rule_key("all", 2), budget_rule(lease_wait_ms=0, **ACROSS))
    assert answer(made) == "LEASE_EXHAUSTED"
    assert made.snapshot()["across_staleness_us"] is None


def test_a_cold_point_reserves_as_it_admits() -> None:
    """Before the control topic was read, nothing is known of budgets: the cold start decides."""
    for then, code in (("closed", "CONTROL_STALE"), ("open", None)):
        cold = AdmissionPoint(None, clock=Clock(), cold_start=ColdStart(0, then))  # type: ignore[arg-type]
        assert answer(cold) == code
