"""Every action of a decision as it is carried out on reservations."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from tests.unit.admission.granting import Grantor, Running, reserving
from tests.unit.admission.messages import MINUTE_US, NOW, decision, key_of

from sluice.admission.desk_options import DeskOptions
from sluice.admission.point import AdmissionPoint
from sluice.admission.queues import QueueOptions
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import AdmissionRequest, Refused, Verdict

CHAT = AdmissionRequest("acme", "chat", "m1", max_output_tokens=100)
ONE_AT_ONCE = DeskOptions(queues=QueueOptions(width=1))


def deciding(*messages: bytes, **over: Any) -> tuple[AdmissionPoint, Grantor]:
    """A point with these decisions and no budget, and the emitter behind it."""
    grantor = Grantor(Running())
    made = AdmissionPoint(None, grantor, clock=grantor.clock, **over)
    made.adopt(made.empty_state())
    for number, message in enumerate(messages):
        made.apply(0, key_of(f"r{number}"), message)
    return made, grantor


def refusal(made: AdmissionPoint, request: AdmissionRequest = CHAT) -> Verdict:
    """What a refused request is told."""
    with pytest.raises(Refused) as caught:
        made.reserve(request)
    return caught.value.verdict


def until(holds: Any) -> None:
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def queued(timeout_ms: int = 20_000, **params: Any) -> bytes:
    """A framed queue decision."""
    return decision("queue", params={"queue_timeout_ms": timeout_ms, **params},
                    reason_code="OVERLOAD")  # fmt: skip


def test_caps_hold_the_request() -> None:
    """The reserved request has the smaller limit and the decided priority; denied tools do not."""
    caps = {"max_tokens": 7, "tool_denylist": ["rm"], "priority": "batch"}
    made, grantor = deciding(decision("allow_with_caps", params=caps))
    with made.reserve(CHAT) as reservation:
        assert (reservation.request.max_output_tokens, reservation.request.priority) == (7, "batch")
    assert (grantor.events[0]["max_output_tokens"], grantor.events[0]["priority"]) == (7, "batch")
    with pytest.raises(Refused):
        made.admit_tool(CHAT, "rm")
    made.admit_tool(CHAT, "ls").release()


def test_a_task_has_so_many_steps_left() -> None:
    """Model and tool calls of a task count together; other tasks and retries do not."""
    made, _ = deciding(decision("allow_with_caps", params={"max_steps_remaining": 2}))
    task = AdmissionRequest("acme", "chat", "m1", task_id="t")
    made.reserve(task).release()
    made.admit_tool(task, "search").release()
    verdict = refusal(made, task)
    assert (verdict.allowed, verdict.action, verdict.reason_code) == (False, "block", "STEP_LIMIT")
    assert "task t has no step left" in verdict.reason
    made.reserve(AdmissionRequest("acme", "chat", "m1", task_id="t", attempt=2)).release()
    made.reserve(AdmissionRequest("acme", "chat", "m1", task_id="u")).release()
    renewed = decision("allow_with_caps", params={"max_steps_remaining": 1}, sequence=9)
    made.apply(0, key_of("r0"), renewed)
    made.reserve(task).release()
    assert refusal(made, task).reason_code == "STEP_LIMIT"


def test_degrade_swaps_the_model_and_says_so() -> None:
    """The first fallback that may serve is taken; result and event name both models."""
    made, grantor = deciding(
        decision("degrade", params={"fallback_models": ["blocked", "small", "tiny"]}),
        decision("block", scope={"model": "blocked"}),
    )
    with made.reserve(CHAT) as reservation:
        assert (reservation.request.model, reservation.degraded_from) == ("small", "m1")
    (event,) = grantor.events
    assert (event["request_model"], event["outcome"]) == ("small", "degraded")
    assert {"key": "degraded_from", "value": "m1"} in event["attributes"]


def test_who_asks_for_a_fallback_is_not_degraded() -> None:
    """A request for one of the fallback models runs as it is."""
    made, grantor = deciding(decision("degrade", params={"fallback_models": ["small", "m1"]}))
    with made.reserve(CHAT) as reservation:
        assert (reservation.request.model, reservation.degraded_from) == ("m1", None)
    assert grantor.events[0]["outcome"] == "ok"


def test_without_a_usable_fallback_it_is_refused() -> None:
    """Where no fallback model may serve, nothing runs on the model that is to be spared."""
    made, _ = deciding(
        decision("degrade", params={"fallback_models": ["blocked"]}),
        decision("block", scope={"model": "blocked"}),
    )
    assert "no fallback model may serve it" in refusal(made).reason


def test_a_task_keeps_its_model_to_the_end() -> None:
    """With boundary task, who began before the decision goes on as it was; later tasks do not."""
    made, grantor = deciding()
    begun = AdmissionRequest("acme", "chat", "m1", task_id="t")
    made.reserve(begun).release()
    grantor.clock.now += 1_000_000
    params = {"fallback_models": ["small"], "boundary": "task"}
    made.apply(0, key_of(), decision("degrade", params=params, issued_at=grantor.clock()))
    later = AdmissionRequest("acme", "chat", "m1", task_id="u")
    grantor.clock.now += 1_000_000
    found = [made.reserve(request) for request in (begun, later, later, CHAT)]
    assert [r.request.model for r in found] == ["m1", "small", "small", "small"]
    assert [r.degraded_from for r in found] == [None, "m1", "m1", "m1"]


def test_isolate_changes_the_pool() -> None:
    """The request runs in the pool of the decision, and its event says where."""
    made, grantor = deciding(decision("isolate", params={"pool": "quarantine"}))
    with made.reserve(CHAT) as reservation:
        assert reservation.request.pool == "quarantine"
    assert grantor.events[0]["pool"] == "quarantine"


def test_preempt_stops_what_runs_in_its_scope() -> None:
    """Running requests of the scope are told by flag and callback, and refused anew."""
    made, grantor = deciding()
    other = made.reserve(AdmissionRequest("other", "chat", "m1"))
    told = list[Verdict]()
    with made.reserve(CHAT) as reservation:
        reservation.on_stop(told.append)
        made.apply(0, key_of(), decision("preempt", reason="make room"))
        assert reservation.stop
        reservation.progress(output_tokens=3)
    late = list[Verdict]()
    reservation.on_stop(late.append)
    assert [verdict.reason for verdict in (*told, *late)] == ["make room"] * 2
    assert not other.stop
    assert (grantor.events[0]["outcome"], grantor.events[0]["output_tokens"]) == ("preempted", 3)
    assert refusal(made).action == "preempt"


@pytest.mark.parametrize(
    "over",
    [{"params": {"boundary": "task"}}, {"mode": "shadow"}, {"effective_at": NOW + MINUTE_US}],
)
def test_what_does_not_preempt_yet(over: dict[str, Any]) -> None:
    """A task's boundary, a shadow and a later beginning leave alone what runs."""
    made, _ = deciding()
    running = made.reserve(CHAT)
    made.apply(0, key_of(), decision("preempt", **over))
    assert not running.stop
    running.release()


def test_a_preemption_that_begins_later_stops_when_it_begins() -> None:
    """The next report looks at decisions that have begun since."""
    made, grantor = deciding()
    running = made.reserve(CHAT)
    made.apply(0, key_of(), decision("preempt", effective_at=NOW + MINUTE_US))
    grantor.clock.now += MINUTE_US
    made.report()
    assert running.stop
    running.release()


def test_a_share_is_refused() -> None:
    """Of a thousand requests exactly the share is refused, evenly, and told when to come back."""
    share = {"drop_ratio_ppm": 250_000, "cooldown_ms": 1500}
    made, _ = deciding(decision("allow_with_caps", params=share))
    verdicts = [made.admit(CHAT) for _ in range(1000)]
    assert [v.allowed for v in verdicts[:8]] == [True, True, True, False] * 2
    assert sum(not v.allowed for v in verdicts) == 250
    assert {v.retry_after_ms for v in verdicts if not v.allowed} == {1500}


def test_a_queue_lets_so_many_run_and_the_next_when_one_ends() -> None:
    """Requests wait for their turn, which comes with the end of one that runs."""
    made, grantor = deciding(queued(), leases=ONE_AT_ONCE)
    first = made.reserve(CHAT)
    found = list[Reservation]()
    thread = threading.Thread(target=lambda: found.append(made.reserve(CHAT)))
    thread.start()
    time.sleep(0.05)
    assert found == []
    first.release()
    thread.join(20)
    (second,) = found
    second.commit()
    assert grantor.events[0]["queue_us"] >= 40_000
    made.reserve(CHAT).release()


def test_a_queue_that_is_full_or_too_slow_says_when_to_come_back() -> None:
    """Beyond its depth and after its timeout a request is queued out, with Retry-After."""
    made, grantor = deciding(queued(30, queue_depth=1), leases=ONE_AT_ONCE)
    running = made.reserve(CHAT)
    refused = list[Verdict]()
    thread = threading.Thread(target=lambda: refused.append(refusal(made)))
    thread.start()
    until(lambda: any(len(gate.queue) for gate in made._desk._queues._gates.values()))
    assert refusal(made).reason_code == "QUEUE_FULL"
    thread.join(20)
    assert (refused[0].reason_code, refused[0].action) == ("QUEUE_TIMEOUT", "queue")
    assert refused[0].retry_after_ms
    running.release()
    made.report()
    outcomes = {(e["outcome"], e["error_type"]) for e in grantor.events[1:]}
    assert outcomes == {("queued_out", "QUEUE_FULL"), ("queued_out", "QUEUE_TIMEOUT")}


def test_a_deadline_ends_the_wait() -> None:
    """Nobody waits beyond the request's own deadline."""
    made, grantor = deciding(queued(), leases=ONE_AT_ONCE)
    running = made.reserve(CHAT)
    hurried = AdmissionRequest("acme", "chat", "m1", deadline_at=grantor.clock() + 30_000)
    begun = time.monotonic()
    assert refusal(made, hurried).reason_code == "QUEUE_TIMEOUT"
    assert time.monotonic() - begun < 10
    running.release()


def test_a_paced_queue_goes_at_its_rate() -> None:
    """A queue decision with a rate lets requests through at that rate, whatever still runs."""
    pace = queued(rate_per_minute=1200, burst=1)
    made, _ = deciding(pace)
    begun = time.monotonic()
    for _ in range(4):
        made.reserve(CHAT)
    assert 0.14 <= time.monotonic() - begun < 5


def test_lifting_the_decision_lets_everybody_go() -> None:
    """Who waits when the decision is lifted runs at once."""
    made, _ = deciding(queued(), leases=ONE_AT_ONCE)
    running = made.reserve(CHAT)
    found = list[Reservation]()
    threads = [threading.Thread(target=lambda: found.append(made.reserve(CHAT))) for _ in range(5)]
    for thread in threads:
        thread.start()
    made.apply(0, key_of("r0"), None)
    for thread in threads:
        thread.join(20)
    assert len(found) == 5
    running.release()


def test_coroutines_wait_in_order_and_may_leave() -> None:
    """A cancelled coroutine gives its place up; guaranteed requests overtake batch ones."""
    made, _ = deciding(queued(), leases=ONE_AT_ONCE)

    async def run() -> list[str]:
        running = await made.reserve_async(CHAT)
        order = list[str]()

        async def go(priority: str) -> None:
            request = AdmissionRequest("acme", "chat", "m1", priority=priority)
            async with await made.reserve_async(request):
                order.append(priority)

        tasks = [asyncio.create_task(go(p)) for p in ("batch", "standard", "gone", "guaranteed")]
        await asyncio.sleep(0.05)
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        running.release()
        await asyncio.gather(*(tasks[n] for n in (0, 1, 3)))
        return order

    assert asyncio.run(run()) == ["guaranteed", "standard", "batch"]
    (gate,) = made._desk._queues._gates.values()
    assert (gate.running, len(gate.queue)) == (0, 0)


def test_a_queued_request_that_finds_no_budget_leaves_its_turn() -> None:
    """Refused by a hard budget after the queue, it takes no place among those that run."""
    grantor = Grantor(Running(), b=0)
    made = reserving(grantor, leases=ONE_AT_ONCE)
    made.apply(0, key_of(), queued())
    costly = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=5)
    for _ in range(3):
        assert refusal(made, costly).reason_code == "LEASE_EXHAUSTED"
    (gate,) = made._desk._queues._gates.values()
    assert gate.running == 0
