"""The admission point: verdicts, cold start, explanations, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

import pytest
from tests.unit.admission.messages import (
    MINUTE_US,
    NOW,
    Clock,
    decision,
    heartbeat,
    key_of,
    point,
    slow,
)

from sluice.admission.control_state import ControlState
from sluice.admission.point import AdmissionPoint, ColdStart
from sluice.admission.rate import Buckets, Limit, Shortage
from sluice.admission.verdict import AdmissionRequest, Verdict

ACME = AdmissionRequest("acme", "chat", "m1")


def test_without_decisions_everything_goes_on() -> None:
    """No decision: allowed, without a reason code."""
    verdict = point().admit(ACME)
    assert (verdict.allowed, verdict.action, verdict.reason_code) == (True, "allow", None)


def test_a_block_names_its_decision() -> None:
    """A refusal carries the decision, the policy and its version, reason and sentence."""
    verdict = point(decision(retry_after_ms=5000)).admit(ACME)
    assert verdict == Verdict(
        False, "block", "BUDGET_EXHAUSTED", "acme has spent 2 of 1 USD", "id-block", "p", "v1",
        retry_after_ms=5000, staleness_us=0,
    )  # fmt: skip


def test_retry_ends_with_the_decision() -> None:
    """Nobody is told to wait beyond the decision's end; without a hint its end is the hint."""
    clock = Clock(NOW + 59 * MINUTE_US)
    hints = [3_600_000, 100, None]
    waits = [
        point(decision(retry_after_ms=h), clock=clock).admit(ACME).retry_after_ms for h in hints
    ]
    assert waits == [60_000, 100, 60_000]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_strictest_refusal_wins(order: tuple[int, ...]) -> None:
    """Whatever came first, block beats preempt, and isolate (which admits) beats neither."""
    messages = [decision("preempt"), decision("block"), decision("isolate", params={"pool": "x"})]
    verdict = point(*(messages[number] for number in order)).admit(ACME)
    assert (verdict.allowed, verdict.action) == (False, "block")


def test_a_preempted_scope_admits_nothing_new() -> None:
    """Preempt refuses new requests, also beside a stricter action that admits."""
    verdict = point(decision("preempt"), decision("isolate", params={"pool": "x"})).admit(ACME)
    assert (verdict.allowed, verdict.action) == (False, "preempt")


def test_no_token_is_taken_when_another_decision_refuses() -> None:
    """Refused requests leave the rate bucket as it was."""
    made = point(slow(burst=2), decision())
    assert not any(made.admit(ACME).allowed for _ in range(10))
    made.apply(0, key_of("r1"), None)
    assert [made.admit(ACME).allowed for _ in range(3)] == [True, True, False]


def test_a_rate_limit_throttles_and_says_when() -> None:
    """Within the burst requests go on under the action's name; then the bucket says when."""
    clock = Clock()
    made = point(slow(per_minute=40, burst=1), clock=clock)
    first, second = made.admit(ACME), made.admit(ACME)
    assert (first.allowed, first.action) == (True, "rate_limit")
    assert (second.allowed, second.action, second.reason_code, second.retry_after_ms) == (
        False, "rate_limit", "RATE_EXCEEDED", 1500,
    )  # fmt: skip
    clock.now += 1_500_000
    assert made.admit(ACME).allowed


def test_an_empty_bucket_survives_a_new_decision() -> None:
    """A decision renewed with the same rate does not hand out another burst."""
    made = point(slow(burst=1, sequence=1))
    made.admit(ACME)
    made.apply(0, key_of("r0"), slow(burst=1, sequence=2))
    assert not made.admit(ACME).allowed


def test_a_lifted_limit_that_returns_begins_with_its_burst() -> None:
    """Lifted and decided again is a new limit, with a full bucket."""
    made = point(slow(burst=1, sequence=1))
    made.admit(ACME)
    made.apply(0, key_of("r0"), None)
    made.apply(0, key_of("r0"), slow(burst=1, sequence=2))
    assert [made.admit(ACME).allowed for _ in range(2)] == [True, False]


def test_caps_of_several_decisions_add_up() -> None:
    """All conditions hold at once: smallest numbers, all denied tools, the strictest's models."""
    verdict = point(
        decision(
            "allow_with_caps",
            params={"max_tokens": 500, "tool_denylist": ["rm"], "priority": "batch"},
        ),
        decision("allow_with_caps", params={"max_tokens": 200, "tool_denylist": ["dd"]}),
        decision(
            "degrade", params={"fallback_models": ["s"], "max_tokens": 300, "priority": "standard"}
        ),
    ).admit(ACME)
    assert (verdict.allowed, verdict.action, verdict.decision_id) == (True, "degrade", "id-degrade")
    assert verdict.caps.max_tokens == 200
    assert verdict.caps.tool_denylist == {"rm", "dd"}
    assert (verdict.caps.fallback_models, verdict.caps.priority) == (("s",), "standard")
    assert verdict.caps.queue_depth is None


def test_a_denied_tool_is_refused_and_others_are_not() -> None:
    """The tool on the list is blocked, another tool and no tool go on."""
    made = point(decision("allow_with_caps", params={"tool_denylist": ["rm"]}))
    tools = ("rm", "ls", None)
    verdicts = [made.admit(AdmissionRequest("acme", tool_name=tool)) for tool in tools]
    assert [(v.allowed, v.action) for v in verdicts] == [
        (False, "block"), (True, "allow_with_caps"), (True, "allow_with_caps"),
    ]  # fmt: skip


def test_an_expired_closed_decision_refuses_as_stale() -> None:
    """Nobody renewed a closed decision: CONTROL_STALE, with the expiry in the sentence."""
    clock = Clock()
    made = point(decision("rate_limit", on_expiry="closed", params={"rate_per_minute": 60},
                          expires_at=NOW + 10), clock=clock)  # fmt: skip
    assert made.admit(ACME).allowed
    clock.now += 10
    verdict = made.admit(ACME)
    assert (verdict.allowed, verdict.action, verdict.reason_code) == (
        False, "block", "CONTROL_STALE",
    )  # fmt: skip
    assert "2027-01-15 08:00:00 UTC" in verdict.reason


def test_a_safe_limit_throttles_as_stale() -> None:
    """An expired decision with a safe limit admits its burst and refuses as CONTROL_STALE."""
    params = {"rate_per_minute": 6, "burst": 1}
    made = point(decision(on_expiry="safe_limit", params=params, expires_at=NOW))
    first, second = made.admit(ACME), made.admit(ACME)
    assert (first.allowed, second.allowed) == (True, False)
    assert (second.action, second.reason_code) == ("rate_limit", "CONTROL_STALE")


def test_a_valid_block_is_named_before_a_stale_one() -> None:
    """Of two blocks the one that is still valid explains the refusal."""
    clock = Clock(NOW + 20)
    stale = decision(decision_id="stale", on_expiry="closed", expires_at=NOW + 10)
    assert point(stale, decision(), clock=clock).admit(ACME).decision_id == "id-block"


def test_an_unknown_action_is_explained_in_the_refusal() -> None:
    """The sentence of the refusal says that the action was not understood."""
    verdict = point(decision("freeze")).admit(ACME)
    assert (verdict.allowed, verdict.action) == (False, "block")
    assert "action 'freeze' is unknown here" in verdict.reason


@pytest.mark.parametrize("then", ["open", "closed"])
def test_a_cold_point_follows_its_setting(then: Any) -> None:
    """Before the snapshot was read, open admits and closed refuses, both saying so."""
    cold = AdmissionPoint(None, clock=Clock(), cold_start=ColdStart(0, then))
    verdict = cold.admit(ACME)
    assert (verdict.allowed, verdict.reason_code) == (then == "open", "CONTROL_STALE")
    assert "has not been read yet" in verdict.reason
    assert verdict.staleness_us is None
    assert not cold.ready


def test_a_cold_point_waits_for_the_snapshot() -> None:
    """A request that waits gets the verdict of the state that arrives meanwhile."""
    cold = AdmissionPoint(None, clock=Clock(), cold_start=ColdStart(60_000, "open"))
    state = cold.empty_state()
    state.apply(0, key_of(), decision(), NOW)
    threading.Timer(0.05, cold.adopt, (state,)).start()
    assert cold.admit(ACME).decision_id == "id-block"
    assert cold.ready


def test_the_wait_of_a_cold_point_counts_from_its_making() -> None:
    """Once the time is over, requests are answered without any wait."""
    clock = Clock()
    cold = AdmissionPoint(None, clock=clock, cold_start=ColdStart(3_600_000, "closed"))
    clock.now += 60 * MINUTE_US
    assert not cold.admit(ACME).allowed


def test_a_given_state_is_ready() -> None:
    """A point made with a state that was read answers from it at once."""
    state = ControlState()
    state.apply(0, key_of(), decision(), NOW)
    made = AdmissionPoint(state, clock=Clock())
    assert made.ready
    assert not made.admit(ACME).allowed


def test_adopting_a_state_keeps_what_buckets_have_given() -> None:
    """The topic read anew does not hand out another burst for the same decision."""
    made = point(slow(burst=1))
    assert made.admit(ACME).allowed
    state = made.empty_state()
    state.apply(0, key_of("r0"), slow(burst=1), NOW)
    made.adopt(state)
    assert not made.admit(ACME).allowed


def test_the_verdict_knows_how_stale_it_is() -> None:
    """Staleness grows with the clock and falls with a heartbeat."""
    clock = Clock()
    made = point(clock=clock)
    made.expect([0])
    clock.now += 70
    assert (made.admit(ACME).staleness_us, made.staleness(), made.staleness(NOW)) == (70, 70, 0)
    made.apply(0, b"heartbeat|0", heartbeat(issued_at=NOW + 60))
    assert made.admit(ACME).staleness_us == 10


def test_explain_lists_what_can_meet_a_scope() -> None:
    """Strictest first, shadow last, each with its standing in a sentence; others are left out."""
    made = point(
        decision("allow_with_caps"),
        decision("block", mode="shadow"),
        slow(scope={"tenant_id": "acme", "model": "m1"}, effective_at=NOW + MINUTE_US),
        decision(scope={"tenant_id": "other"}),
        decision(scope={}, expires_at=NOW),
    )
    told = made.explain({"tenant_id": "acme", "model": None}).decisions
    assert [(e.decision.published_action, e.in_force) for e in told] == [
        ("block", False), ("rate_limit", False), ("allow_with_caps", True), ("block", False),
    ]  # fmt: skip
    assert told[0].sentence == (
        "block for all tenants, expired 2027-01-15 08:00:00 UTC, no longer obeyed (policy p v1, "
        "rule r): acme has spent 2 of 1 USD"
    )
    assert "rate_limit for tenant_id=acme, model=m1, from 2027-01-15 08:01:00" in told[1].sentence
    assert "until 2027-01-15 09:00:00 UTC" in told[2].sentence
    assert "in shadow, not obeyed" in told[3].sentence
    assert [(e.since, e.until) for e in told[1:3]] == [
        (NOW + MINUTE_US, NOW + 60 * MINUTE_US), (NOW, NOW + 60 * MINUTE_US)
    ]  # fmt: skip
    assert told[2].lifts == (
        "its end at 2027-01-15 09:00:00 UTC, or pusd of d back under 1 (observed 2)"
    )


@pytest.mark.parametrize(
    ("on_expiry", "words"),
    [("closed", "refuses until renewed"), ("keep", "kept in force"),
     ("safe_limit", "admits 6 requests a minute"), ("someday", "on_expiry 'someday' is unknown")],
)  # fmt: skip
def test_explain_tells_what_an_expired_decision_does(on_expiry: str, words: str) -> None:
    """Each behaviour on expiry has its words."""
    params = {"rate_per_minute": 6, "burst": 1}
    (told,) = (
        point(decision(on_expiry=on_expiry, params=params, expires_at=NOW)).explain({}).decisions
    )
    assert words in told.sentence
    assert told.until is None
    assert "it does not end with 2027-01-15" in told.lifts


def test_absurd_instants_are_told_and_do_not_raise() -> None:
    """An expiry that no calendar has stays a number of microseconds."""
    (told,) = point(decision(expires_at=2**63 - 1)).explain({}).decisions
    assert f"until {2**63 - 1} µs UTC" in told.sentence


def test_snapshot_tells_everything_held() -> None:
    """Readiness, staleness, counters and decisions in one dictionary."""
    made = point(decision(), decision(mode="shadow"))
    made.apply(0, key_of("x"), b"junk")
    snapshot = made.snapshot()
    assert (snapshot["ready"], snapshot["staleness_us"], snapshot["heard_at"]) == (
        True,
        0,
        {0: NOW},
    )
    assert snapshot["counts"] == {"applied": 2, "garbage": 1, "lost_reports": 0}
    assert len(snapshot["decisions"]) == 2


class Narrow(Buckets):
    """Buckets that only one thread at a time may use, and that take their time."""

    busy = False

    def take(self, limits: Collection[Limit], now: int) -> Shortage | None:
        assert not self.busy
        self.busy = True
        time.sleep(0.0005)
        shortage = super().take(limits, now)
        self.busy = False
        return shortage


def test_threads_share_one_bucket() -> None:
    """Eight threads at once get exactly the burst, while decisions come and go."""
    made = point(slow(burst=20))
    made._buckets = Narrow()
    start, allowed = threading.Barrier(9), [0] * 8

    def ask(slot: int) -> None:
        start.wait()
        allowed[slot] = sum(made.admit(ACME).allowed for _ in range(10))

    threads = [threading.Thread(target=ask, args=(slot,)) for slot in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    for number in range(200):
        scope = {"tenant_id": f"t{number}", "model": "m"}
        made.apply(0, key_of(f"x{number}"), decision(scope=scope))
        made.apply(0, key_of(f"x{number}"), None)
    for thread in threads:
        thread.join()
    assert sum(allowed) == 20
