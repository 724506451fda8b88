"""Admission events: what the point tells of itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.admission.messages import NOW, Clock, Sent, decision, key_of, point, slow

from sluice.admission import outbox, reporting
from sluice.admission.point import AdmissionPoint, ColdStart
from sluice.admission.verdict import AdmissionRequest
from sluice.errors import OutsideError
from sluice.metering.validate import check_usage
from sluice.wire.codec import decode, encode


def request(estimate: int | None = 7, **over: Any) -> AdmissionRequest:
    """A request of tenant acme."""
    return AdmissionRequest(
        "acme", "chat", **({"model": "m1"} | over), estimated_cost_pusd=estimate
    )


def units(event: Mapping[str, Any]) -> dict[str, int]:
    """Units of an event by key."""
    return {unit["key"]: unit["value"] for unit in event["units"]}


def refusals(sent: Sent) -> list[Mapping[str, Any]]:
    """Events about refusals, without the notices."""
    return [event for event in sent if event["outcome"] != "ok"]


def test_refusals_are_added_up() -> None:
    """Refusals of one group become one event with their count and the cost averted."""
    sent, clock = Sent(), Clock()
    made = point(decision(), emitter=sent, clock=clock, source="gw-1")
    for estimate in (7, 5, None):
        made.admit(request(estimate))
        clock.now += 10
    made.report()
    (event,) = refusals(sent)
    assert event == event | {
        "source": "gw-1", "event_type": "admission", "tenant_id": "acme",
        "project_id": "chat", "request_model": "m1", "outcome": "rejected",
        "error_type": "BUDGET_EXHAUSTED", "decision_id": "id-block", "policy_version": "v1",
        "estimated_cost_pusd": 12, "started_at": NOW, "occurred_at": NOW + 20,
        "attributes": [{"key": "action", "value": "block"}],
    }  # fmt: skip
    assert units(event) == {"requests": 3}


def test_groups_are_told_apart() -> None:
    """Models, actions and decisions each get their own event; throttled is an outcome apart."""
    sent = Sent()
    made = point(slow(burst=1), emitter=sent)
    for _ in range(3):
        made.admit(request())
    made.admit(request(model="m2"))
    made.apply(0, key_of("b"), decision())
    made.admit(request())
    made.report()
    told = {(e["request_model"], e["outcome"], units(e)["requests"]) for e in refusals(sent)}
    assert told == {("m1", "throttled", 2), ("m2", "throttled", 1), ("m1", "rejected", 1)}


def test_nothing_is_told_twice() -> None:
    """A second report without news sends nothing."""
    sent = Sent()
    made = point(decision(), emitter=sent)
    made.admit(request())
    made.report()
    before = len(sent)
    made.report()
    assert len(sent) == before


def test_unknown_estimates_stay_unknown() -> None:
    """Where no request had an estimate, the averted cost is null and not 0."""
    sent = Sent()
    made = point(decision(), emitter=sent)
    made.admit(request(None))
    made.report()
    assert refusals(sent)[0]["estimated_cost_pusd"] is None


def test_estimates_stay_within_what_validation_takes() -> None:
    """Absurd estimates neither lose the count nor go beyond the largest amount of an event."""
    sent = Sent()
    made = point(decision(), emitter=sent)
    for estimate in (reporting.MAX_ESTIMATE_PUSD, 10, -5):
        made.admit(request(estimate))
    made.report()
    (event,) = refusals(sent)
    assert (event["estimated_cost_pusd"], units(event)["requests"]) == (
        reporting.MAX_ESTIMATE_PUSD, 3,
    )  # fmt: skip


def test_a_live_decision_is_reported_once_with_its_lag() -> None:
    """Applied live: one notice with the time since it was issued; its duplicate says nothing."""
    sent, clock = Sent(), Clock(NOW + 1234)
    made = point(decision(), emitter=sent, clock=clock)
    made.apply(0, key_of("r0"), decision())
    made.report()
    (event,) = sent
    assert (event["outcome"], event["decision_id"], units(event)) == (
        "ok", "id-block", {"requests": 0, "applied_lag_us": 1234},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("over", "live"), [({}, False), ({"mode": "shadow"}, True)], ids=["snapshot", "shadow"]
)
def test_no_notice_for_old_or_shadow_decisions(over: dict[str, Any], live: bool) -> None:
    """Decisions of the snapshot and shadow decisions are not reported as applied."""
    sent = Sent()
    made = point(emitter=sent)
    made.apply(0, key_of(), decision(**over), live=live)
    made.report()
    assert sent == []


def test_a_clock_behind_the_broker_gives_no_negative_lag() -> None:
    """A lag is never below 0."""
    sent = Sent()
    made = point(decision(issued_at=NOW + 50), emitter=sent)
    made.report()
    assert units(sent[0])["applied_lag_us"] == 0


def test_events_pass_the_wire_and_its_checks() -> None:
    """With an emitter's id, epoch and sequence, every event can be framed and passes validation."""
    sent = Sent()
    made = point(decision(), decision(scope={}), emitter=sent)
    made.admit(request())
    made.report()
    assert len(sent) == 3
    for event in sent:
        value = encode(
            "UsageEvent", event | {"event_id": "i", "source_epoch": "e", "source_seq": 1}
        )
        _, decoded = decode(value)
        check_usage(decoded, decoded["tenant_id"].encode(), NOW)
        assert decoded["cost_pusd"] is None
        assert decoded["input_tokens"] == decoded["output_tokens"] == 0


def test_made_up_models_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound of groups, refusals are told under one name for all other models."""
    monkeypatch.setattr(reporting, "MAX_GROUPS", 3)
    sent = Sent()
    made = point(decision(), emitter=sent)
    for number in range(10):
        made.admit(request(model=f"m{number}"))
    made.report()
    counts = {event["request_model"]: units(event)["requests"] for event in refusals(sent)}
    assert counts == {"m0": 1, "m1": 1, "m2": 1, reporting.OTHER_MODELS: 7}


class Moody(Sent):
    """An emitter that raises what it is told to."""

    trouble: Exception | None = None

    def emit(self, event: Mapping[str, Any]) -> None:
        if self.trouble is not None:
            raise self.trouble
        super().emit(event)


def test_events_wait_for_an_emitter_that_is_away() -> None:
    """What could not be sent comes with the next report, in order and once."""
    sent = Moody()
    made = point(decision(), emitter=sent)
    sent.trouble = OutsideError("disk full")
    made.report()
    made.admit(request())
    made.report()
    assert sent == []
    sent.trouble = None
    made.report()
    assert [event["outcome"] for event in sent] == ["ok", "rejected"]


def test_an_event_that_cannot_be_sent_holds_up_nothing() -> None:
    """An emitter that refuses an event for good loses that one, counted."""
    sent = Moody()
    made = point(decision(), emitter=sent)
    sent.trouble = ValueError("no")
    made.report()
    sent.trouble = None
    made.report()
    assert (sent, made.snapshot()["counts"]["lost_reports"]) == ([], 1)


def test_waiting_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest waiting event is given up and counted."""
    monkeypatch.setattr(outbox, "MAX_UNSENT", 2)
    sent = Moody()
    made = point(*(decision(decision_id=f"d{number}") for number in range(5)), emitter=sent)
    sent.trouble = OutsideError("away")
    made.report()
    sent.trouble = None
    made.report()
    assert [event["decision_id"] for event in sent] == ["d3", "d4"]
    assert made.snapshot()["counts"]["lost_reports"] == 3


def test_a_cold_refusal_is_reported_without_a_decision() -> None:
    """Refusals before the topic was read are told under CONTROL_STALE."""
    sent = Sent()
    cold = AdmissionPoint(None, sent, clock=Clock(), cold_start=ColdStart(0, "closed"))
    cold.admit(request())
    cold.report()
    (event,) = sent
    assert (event["error_type"], event["decision_id"], event["outcome"]) == (
        "CONTROL_STALE", None, "rejected",
    )  # fmt: skip


def test_the_last_report_comes_when_it_ends() -> None:
    """Told to stop, the reporting loop sends what is left."""
    sent = Sent()
    made = point(decision(), emitter=sent)
    stop = threading.Event()
    stop.set()
    made.report_until(stop)
    assert len(sent) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_answers_and_leaves_the_news_to_its_parent() -> None:
    """Forked while a lock is held, the child still admits and tells nothing of its parent's."""
    sent = Sent()
    made = point(decision(), emitter=sent)
    made.admit(request())
    with made._waiters.lock:
        child = os.fork()
        if child == 0:
            made.report()
            refused = not made.admit(request()).allowed
            os._exit(0 if refused and not sent else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    made.report()
    assert len(sent) == 2
