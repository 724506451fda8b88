"""Requests of a trace as questions and usage events: instants rebased, facts kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.builders import NOW, usage

from sluice.admission.caps import Caps
from sluice.admission.verdict import Verdict
from sluice.metering.prices import default_book
from sluice.metering.validate import check_usage
from sluice.replay.events import (
    Schedule,
    declared_max,
    estimate_pusd,
    facts_of,
    held_to,
    question,
    usage_event,
)
from sluice.replay.formats import ARENA_MODEL, ARENA_PROVIDER
from sluice.replay.rows import TraceRequest
from sluice.wire.codec import decode, encode

REQUEST = TraceRequest(
    arrival_us=40_000_000, tenant_id="acme", model=ARENA_MODEL, provider_name=ARENA_PROVIDER,
    input_tokens=100, output_tokens=20, queue_us=1_000_000, ttft_us=3_000_000,
    latency_us=9_000_001,
)  # fmt: skip
SCHEDULE = Schedule("r1", NOW, 20.0)


@pytest.mark.parametrize("speed", [0.1, 1.0, 7.0, 1000.0])
@pytest.mark.parametrize("request_", [
    REQUEST, replace(REQUEST, latency_us=None, ttft_us=None, queue_us=None),
    replace(REQUEST, ttft_us=9_000_001), replace(REQUEST, latency_us=0),
])  # fmt: skip
def test_an_event_of_any_request_is_valid_at_any_speed(
    speed: float, request_: TraceRequest
) -> None:
    """Compressed instants stay in their order, and the meter takes the event."""
    event = usage_event(Schedule("r1", NOW, speed), 3, request_)
    own = {"source": "s", "source_epoch": "e", "source_seq": 1}
    whole = decode(encode("UsageEvent", event | own))[1]
    check_usage(whole, b"acme", NOW + 400_000_000)


def test_instants_shrink_and_measured_durations_do_not() -> None:
    """At 20x a request starts and ends at a twentieth; its durations stay what was measured."""
    event = usage_event(SCHEDULE, 3, REQUEST)
    assert event["started_at"] == NOW + 2_000_000
    assert event["scheduled_at"] == NOW + 2_050_000
    assert event["first_token_at"] == NOW + 2_150_000
    assert event["occurred_at"] == NOW + 2_450_000
    durations = (event["queue_us"], event["ttft_us"], event["latency_us"])
    assert durations == (1_000_000, 3_000_000, 9_000_001)


def test_what_was_not_measured_stays_unknown() -> None:
    """A request without durations ends when it arrives and says nothing about them."""
    bare = replace(REQUEST, queue_us=None, ttft_us=None, latency_us=None)
    event = usage_event(SCHEDULE, 3, bare)
    assert event["occurred_at"] == event["started_at"]
    assert event["latency_us"] is event["ttft_us"] is event["first_token_at"] is None


def test_events_of_a_run_are_told_apart_by_number_and_run() -> None:
    """Ids derive from run and number, and the project carries the run."""
    events = [usage_event(Schedule(run, NOW, 1.0), n, REQUEST) for run in "ab" for n in (1, 2)]
    assert len({event["event_id"] for event in events}) == 4
    assert usage_event(SCHEDULE, 3, REQUEST) == usage_event(SCHEDULE, 3, REQUEST)
    assert usage_event(SCHEDULE, 3, REQUEST)["project_id"] == "replay-r1"


def test_a_replayed_usage_event_keeps_its_facts() -> None:
    """Only identity, project, task and instants of a recorded event change."""
    recorded = usage(1, task_id="t1", queue_us=4, max_output_tokens=77, project_id="chat")
    request = replace(REQUEST, event=recorded, output_tokens=100, task="t1")
    event = usage_event(SCHEDULE, 3, request)
    assert (event["task_id"], event["queue_us"], event["max_output_tokens"]) == ("r1/t1", 4, 77)
    assert (event["project_id"], event["started_at"]) == ("replay-r1", NOW + 2_000_000)


def test_tasks_and_parents_are_those_of_the_run() -> None:
    """Two runs of a trace share no task, and a parent's id is the id that the parent gets."""
    child = replace(REQUEST, task="t1", parent=2, event={"event_type": "tool"})
    first, second = (usage_event(Schedule(run, NOW, 1.0), 3, child) for run in "ab")
    assert (first["task_id"], second["task_id"]) == ("a/t1", "b/t1")
    parent = usage_event(Schedule("a", NOW, 1.0), 2, replace(REQUEST, task="t1"))
    assert first["parent_event_id"] == parent["event_id"] != second["parent_event_id"]
    assert first["max_output_tokens"] is None


@pytest.mark.parametrize(("output", "declared"), [(0, 1024), (1024, 1024), (1025, 2048)])
def test_declared_output_is_1024_unless_the_answer_was_longer(output: int, declared: int) -> None:
    """No request gets more output than it asked for."""
    assert declared_max(replace(REQUEST, output_tokens=output)) == declared


def test_the_estimate_assumes_the_longest_answer_and_no_cache() -> None:
    """Estimated cost = input and 1,024 output tokens at the book's rates, in pico-USD."""
    event = usage_event(SCHEDULE, 3, replace(REQUEST, cache_read_input_tokens=90))
    assert estimate_pusd(event, default_book()) == 100 * 50_000 + 1024 * 250_000
    assert question(event, default_book()).max_output_tokens == 1024
    assert estimate_pusd(event | {"request_model": "nobody's"}, default_book()) is None


def test_an_estimate_beyond_64_bits_is_none() -> None:
    """An absurd request is asked for without an estimate, it does not stop the gateway."""
    event = usage_event(SCHEDULE, 3, replace(REQUEST, input_tokens=10**15))
    assert estimate_pusd(event, default_book()) is None


def test_a_tool_call_is_not_estimated_as_an_answer() -> None:
    """Only inference generates up to its declared output."""
    event = usage_event(SCHEDULE, 3, replace(REQUEST, input_tokens=0, output_tokens=0))
    assert estimate_pusd(event | {"event_type": "tool"}, default_book()) == 0


def test_an_admitted_request_is_held_to_its_cap() -> None:
    """A cap below the traced output cuts it, one above does not; the decision is named."""
    event = usage_event(SCHEDULE, 3, REQUEST)
    verdict = Verdict(True, "allow_with_caps", "X", "why", "d1", caps=Caps(max_tokens=5))
    capped = held_to(event, verdict, 7)
    assert (capped["output_tokens"], capped["finish_reason"]) == (5, "length")
    assert (capped["decision_id"], capped["estimated_cost_pusd"]) == ("d1", 7)
    loose = replace(verdict, caps=Caps(max_tokens=21))
    assert held_to(event, loose, 7)["output_tokens"] == 20


def test_facts_make_the_event_again() -> None:
    """What the ledger holds, put over a fresh event, is the event that was emitted."""
    verdict = Verdict(True, "allow_with_caps", "X", "why", "d1", caps=Caps(max_tokens=0))
    emitted = held_to(usage_event(SCHEDULE, 3, REQUEST), verdict, 7)
    assert usage_event(SCHEDULE, 3, REQUEST) | facts_of(emitted) == emitted
