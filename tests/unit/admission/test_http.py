"""Refusals on the wire of HTTP: status, headers and bodies per action."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.admission.granting import Grantor, reserving
from tests.unit.admission.messages import NOW, Clock, budget_rule, decision, point, slow

from sluice.admission.http import Answer, HttpOptions, admitted_headers, refusal, stopped_event
from sluice.admission.point import AdmissionPoint, ColdStart
from sluice.admission.verdict import AdmissionRequest, Refused, Verdict, Violation

CHAT = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10)
IANA = "https://iana.org/assignments/http-problem-types#"


def answered(verdict: Verdict, **over: Any) -> tuple[Answer, dict[str, Any]]:
    """The answer and its body."""
    answer = refusal(verdict, NOW, HttpOptions(**over))
    return answer, json.loads(answer.body)


def without_lease(**over: Any) -> Verdict:
    """The refusal of a hard budget that has 5 of 10 left."""
    made = reserving(Grantor(Clock(), b=15), budget_rule(limit=15, lease_wait_ms=0, **over))
    made.reserve(CHAT)
    with pytest.raises(Refused) as caught:
        made.reserve(CHAT)
    return caught.value.verdict


def test_a_rate_limit_tells_its_quota_and_when_to_come_back() -> None:
    """429 with Retry-After and the fields of the rate limit draft; it may be retried soon."""
    made = point(slow(per_minute=40, burst=1))
    made.admit(CHAT)
    answer, body = answered(made.admit(CHAT))
    assert (answer.status, answer.headers) == (429, {
        "Content-Type": "application/problem+json", "Retry-After": "2",
        "RateLimit-Policy": '"p/r";q=40;w=60;qu="requests"', "RateLimit": '"p/r";r=0;t=2',
    })  # fmt: skip
    assert (body["type"], body["violated-policies"], body["code"], body["retry_after_ms"]) == (
        f"{IANA}quota-exceeded", ["p/r"], "RATE_EXCEEDED", 1500
    )  # fmt: skip


def test_a_block_on_a_budget_is_told_with_its_numbers() -> None:
    """The problem names scope, limit, used, unit, decision and version; it is not retried soon."""
    verdict = point(decision(retry_after_ms=3_600_000)).admit(CHAT)
    answer, body = answered(verdict)
    assert (answer.status, answer.headers["Retry-After"], answer.headers["x-should-retry"]) == (
        429, "3600", "false"
    )  # fmt: skip
    expected = {
        "type": f"{IANA}quota-exceeded", "status": 429, "detail": "acme has spent 2 of 1 USD",
        "violated-policies": ["p/r"], "scope": "tenant_id=acme", "limit": 1, "used": 2,
        "unit": "pusd", "decision_id": "id-block", "policy_version": "v1",
    }  # fmt: skip
    assert {name: body[name] for name in expected} == expected
    assert answered(verdict, budget_status=402)[0].status == 402


def test_a_hard_budget_tells_what_is_left_and_when_it_resets() -> None:
    """The violated budget is named; money is told in micro-USD, which a header can carry."""
    answer, body = answered(without_lease())
    assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
    assert answer.headers["RateLimit-Policy"] == '"p/b";q=0;qu="micro-usd"'
    assert answer.headers["RateLimit"] == '"p/b";r=0;t=57600'
    assert {n: body[n] for n in ("violated-policies", "limit", "needed", "left", "resets_at")} == {
        "violated-policies": ["p/b"], "limit": 15, "needed": 10, "left": 0,
        "resets_at": "2027-01-16T00:00:00Z",
    }  # fmt: skip


def test_concurrency_is_no_spent_budget() -> None:
    """Too many at once is a rate, not money: 429 whatever spent budgets answer."""
    made = reserving(Grantor(Clock(), b=1), budget_rule(unit="concurrency", lease_wait_ms=0))
    running = made.reserve(CHAT)
    with pytest.raises(Refused) as caught:
        made.reserve(CHAT)
    answer, body = answered(caught.value.verdict, budget_status=402, dialect="openai")
    assert (answer.status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 'qu="concurrent-requests"' in answer.headers["RateLimit-Policy"]
    running.release()


@pytest.mark.parametrize(
    ("verdict", "status", "kind"),
    [
        (Verdict(False, "queue", "QUEUE_TIMEOUT", "r", retry_after_ms=900), 503,
         "temporary-reduced-capacity"),
        (Verdict(False, "block", "CONTROL_STALE", "r", retry_after_ms=900), 503,
         "temporary-reduced-capacity"),
        (Verdict(False, "block", "PUBLISHER_DOWN", "r", retry_after_ms=900), 503,
         "temporary-reduced-capacity"),
        (Verdict(False, "degrade", "OVER", "r"), 503, "temporary-reduced-capacity"),
        (Verdict(False, "preempt", "PRIORITY", "r"), 429, "quota-exceeded"),
        (Verdict(False, "block", "LOOP_DETECTED", "r"), 429, "abnormal-usage-detected"),
        (Verdict(False, "block", "STEP_LIMIT", "r", retry_after_ms=1), 429, "quota-exceeded"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_status_and_type(verdict: Verdict, status: int, kind: str) -> None:
    """Busy is 503, exceeded and preempted 429; problem types are the registered ones."""
    answer, body = answered(verdict)
    assert (answer.status, body["status"], body["type"]) == (status, status, IANA + kind)
    assert ("x-should-retry" in answer.headers) == (status == 429)


def test_what_is_not_allowed_is_forbidden() -> None:
    """A request that no later try makes right is 403 and told not to be retried."""
    answer, body = answered(Verdict(False, "block", "UNKNOWN_SCOPE", "no user"))
    assert (answer.status, body["type"], answer.headers["x-should-retry"]) == (
        403, "about:blank", "false"
    )  # fmt: skip


def test_a_cold_point_asks_to_come_back() -> None:
    """Before the control topic was read: 503 and Retry-After."""
    cold = AdmissionPoint(None, clock=Clock(), cold_start=ColdStart(0, "closed"))
    answer, _ = answered(cold.admit(CHAT))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("verdict", "kind", "code"),
    [
        (point(decision()).admit(CHAT), "insufficient_quota", "insufficient_quota"),
        (Verdict(False, "rate_limit", "RATE_EXCEEDED", "r"), "rate_limit_exceeded",
         "rate_limit_exceeded"),
        (Verdict(False, "queue", "QUEUE_FULL", "r"), "server_error", "QUEUE_FULL"),
        (Verdict(False, "block", "POLICY_BLOCK", "r"), "permission_error", "POLICY_BLOCK"),
    ],
)  # fmt: skip
def test_the_openai_dialect(verdict: Verdict, kind: str, code: str) -> None:
    """Clients of that kind find message, type, param and code where they look for them."""
    answer, body = answered(verdict, dialect="openai")
    error = body["error"]
    assert (error["message"], error["type"], error["param"], error["code"]) == (
        verdict.reason, kind, None, code
    )  # fmt: skip
    assert error["sluice"]["code"] == verdict.reason_code
    assert answer.headers["Content-Type"] == "application/json"


def test_a_change_of_model_is_never_silent() -> None:
    """A degraded answer has a header with both models and the decision; others have none."""
    params = {"fallback_models": ['sm"all']}
    made = point(decision("degrade", params=params))
    with made.reserve(CHAT) as reservation:
        assert admitted_headers(reservation) == {
            "Sluice-Degraded": 'from="m1";to="sm\\"all";decision="id-degrade"'
        }
    with made.reserve(AdmissionRequest("other", "", "m1")) as reservation:
        assert admitted_headers(reservation) == {}


def test_a_stream_that_is_stopped_says_why() -> None:
    """The last event of the stream carries the problem, in either dialect."""
    verdict = Verdict(False, "preempt", "PRIORITY", "make room")
    event = stopped_event(verdict)
    assert event.startswith(b"event: error\ndata: {") and event.endswith(b"}\n\n")
    assert json.loads(event[len(b"event: error\ndata: ") :])["detail"] == "make room"
    in_openai = stopped_event(verdict, HttpOptions(dialect="openai"))
    assert b'{"error":{"message":"make room"' in in_openai


def test_large_limits_and_odd_names_fit_a_header() -> None:
    """Integers end at 15 digits, names are printable, and a nine-million-dollar limit is exact."""
    limit = 9_000_000 * 10**12
    odd = Violation("p\u00e9", "v", "b", "", "rolling", "pusd", limit, 1, None, None)
    tokens = odd._replace(unit="tokens", policy_id="p", limit=10**18)
    verdict = Verdict(False, "block", "LEASE_EXHAUSTED", "r", violated=(odd, tokens))
    answer, _ = answered(verdict)
    assert answer.headers["RateLimit-Policy"] == (
        '"p_/b";q=9000000000000;qu="micro-usd", "p/b";q=999999999999999;qu="tokens"'
    )
    assert answer.headers["RateLimit"] == '"p_/b";r=0, "p/b";r=0'
