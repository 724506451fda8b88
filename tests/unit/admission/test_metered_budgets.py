"""Metered operations on hard budgets: they reserve and settle by themselves."""

from __future__ import annotations

import pytest
from tests.unit.admission.granting import Grantor, reserving
from tests.unit.admission.messages import Clock, budget_rule, decision, key_of

from sluice.admission.metered import Metered
from sluice.admission.point import AdmissionPoint
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.errors import OutsideError

CHAT = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10, input_tokens=5,
                        max_output_tokens=20)  # fmt: skip


def gateway(limit: int = 1000, *, unit: str = "output_tokens") -> tuple[Metered, Grantor]:
    """A metered gateway under one hard budget."""
    grantor = Grantor(Clock(), b=limit)
    made = reserving(grantor, budget_rule(unit=unit, limit=limit, lease_wait_ms=0))
    return Metered(made, grantor, clock=grantor.clock), grantor


def charged(grantor: Grantor) -> tuple[int | None, int | None]:
    """Committed and reserved on the only account."""
    assert grantor.point is not None
    (standing,) = grantor.point.snapshot()["budgets"]
    return standing.committed, standing.reserved


def test_a_call_reserves_and_settles() -> None:
    """A user of Metered has hard budgets for nothing: held while it runs, charged at its end."""
    metered, grantor = gateway()
    with metered.call(CHAT, provider_name="openai") as call:
        assert charged(grantor) == (0, 20)
        call.usage(input_tokens=5, output_tokens=9)
    assert charged(grantor) == (9, 0)
    (event,) = grantor.events
    assert call.reservation is not None
    assert (event["reservation_id"], event["lease_id"], event["started_at"]) == (
        call.reservation.reservation_id, "lease-b", call.reservation.started_at
    )  # fmt: skip


def test_a_call_without_room_is_refused() -> None:
    """Refused carries the budget that has no room, and no event is emitted."""
    metered, grantor = gateway(19)
    with pytest.raises(Refused) as caught:
        metered.call(CHAT, provider_name="openai")
    assert [v.budget_id for v in caught.value.verdict.violated] == ["b"]
    assert grantor.events == []


def test_a_cancelled_call_is_charged_what_it_streamed() -> None:
    """The tokens that went by are told while it runs and charged at its end."""
    metered, grantor = gateway()
    with pytest.raises(KeyboardInterrupt), metered.call(CHAT, provider_name="openai") as call:
        for _ in range(6):
            call.streamed_tokens()
        assert call.reservation is not None
        assert call.reservation.holds[0].account.interim == 6
        raise KeyboardInterrupt
    assert charged(grantor) == (6, 0)
    assert grantor.events[0]["outcome"] == "cancelled"


def test_every_attempt_needs_room_of_its_own() -> None:
    """A retry reserves again, and is refused where the first attempt took the rest."""
    metered, grantor = gateway(40)
    first = metered.call(CHAT, provider_name="openai")
    grantor.clock.now += 1_000_000
    second = first.retry(request_model="m2")
    assert charged(grantor) == (0, 40)
    grantor.clock.now += 1_000_000
    with pytest.raises(Refused):
        second.hedge()
    second.usage(output_tokens=3)
    second.finish()
    first.finish("error")
    assert [(e["attempt"], e["request_model"]) for e in grantor.events] == [(2, "m2"), (1, "m1")]
    assert charged(grantor) == (3, 0)


def test_tool_calls_of_a_task_count() -> None:
    """Steps and tool calls of a task are held against its budgets."""
    metered, grantor = gateway(1, unit="tool_calls")
    task = metered.task(CHAT)
    task.tool("search").finish()
    grantor.clock.now += 1_000_000
    with pytest.raises(Refused):
        task.tool("search")
    assert charged(grantor) == (1, 0)


def test_a_tool_call_of_a_named_request_is_another_request() -> None:
    """What a call opens does not share its name, and so not its reservation."""
    metered, _ = gateway()
    named = AdmissionRequest("acme", "chat", "m1", max_output_tokens=20, request_id="r")
    with metered.call(named, provider_name="openai") as call, call.tool("search") as tool:
        assert tool.reservation is not call.reservation
        assert tool.request.request_id is None


def test_a_verdict_or_a_reservation_in_hand_is_used() -> None:
    """What was asked for before is neither asked for nor reserved again."""
    metered, grantor = gateway()
    point = grantor.point
    assert isinstance(point, AdmissionPoint)
    verdict = point.admit(CHAT)
    point.apply(0, key_of(), decision())
    with metered.call(CHAT, provider_name="x", verdict=verdict) as call:
        grantor.clock.now += 1_000_000
        reservation = point.reserve(CHAT, verdict)
        assert charged(grantor) == (0, 40)
    with metered.call(CHAT, provider_name="x", reservation=reservation) as second:
        assert second.reservation is reservation
    assert call.reservation is not reservation
    assert charged(grantor)[1] == 0


def test_a_named_request_is_metered_once() -> None:
    """A call opened twice under one request_id emits one event and is charged once."""
    metered, grantor = gateway()
    named = AdmissionRequest("acme", "chat", "m1", max_output_tokens=20, request_id="r")
    for _ in range(2):
        with metered.call(named, provider_name="openai") as call:
            call.usage(output_tokens=4)
    assert len(grantor.events) == 1
    assert charged(grantor) == (4, 0)


def test_an_event_that_is_not_taken_keeps_its_amount_held() -> None:
    """The error reaches the caller, and finishing again charges it."""
    metered, grantor = gateway()
    call = metered.call(CHAT, provider_name="openai")
    call.usage(output_tokens=4)
    grantor.away = True
    with pytest.raises(OutsideError):
        call.finish()
    assert charged(grantor) == (0, 20)
    grantor.away = False
    call.finish()
    assert charged(grantor) == (4, 0)


def test_degraded_calls_run_on_another_model_and_say_so() -> None:
    """The call's request has the fallback model, its event the outcome and what was asked for."""
    metered, grantor = gateway()
    assert grantor.point is not None
    fallback = {"fallback_models": ["small"], "max_tokens": 7, "priority": "batch"}
    grantor.point.apply(0, key_of(), decision("degrade", params=fallback))
    with metered.call(CHAT, provider_name="openai", attributes=[{"key": "k", "value": "v"}]) as c:
        assert (c.request.model, c.request.max_output_tokens) == ("small", 7)
        c.usage(output_tokens=2)
    (event,) = grantor.events
    assert (event["request_model"], event["outcome"], event["decision_id"]) == (
        "small", "degraded", "id-degrade"
    )  # fmt: skip
    assert event["attributes"] == [
        {"key": "k", "value": "v"}, {"key": "degraded_from", "value": "m1"}
    ]  # fmt: skip
