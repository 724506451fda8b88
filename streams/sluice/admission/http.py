"""Refusals as HTTP answers: status, headers and body, for whoever speaks which dialect.

Status and headers per action follow draft-ietf-httpapi-ratelimit-headers (RateLimit-Policy,
RateLimit, the registered problem types) and RFC 9457; nothing here does I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from sluice.admission.budget_words import LEASE_EXHAUSTED
from sluice.admission.decision import CONTROL_STALE
from sluice.admission.queues import QUEUE_FULL, QUEUE_TIMEOUT
from sluice.admission.reservation import Reservation
from sluice.admission.steps import STEP_LIMIT
from sluice.admission.verdict import Verdict, Violation

Dialect = Literal["problem", "openai"]

_TYPES = "https://iana.org/assignments/http-problem-types#"
# What passes by itself: a queue, a silent control topic, usage that finds no way out.
_BUSY = frozenset({CONTROL_STALE, QUEUE_FULL, QUEUE_TIMEOUT, "PUBLISHER_DOWN", "OVERLOAD"})
# What no later try changes, because the request itself is not allowed.
_FORBIDDEN = frozenset({"POLICY_BLOCK", "TOOL_DENIED", "UNKNOWN_SCOPE", "NO_PRICE"})
_ABNORMAL = frozenset({"LOOP_DETECTED", "RETRY_STORM", "NOISY_NEIGHBOUR"})
_SOON_S = 60
# Largest integer of a structured field (RFC 9651).
_MAX_INTEGER = 10**15 - 1
_PUSD_PER_MICRO_USD = 10**6


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """`budget_status`: what a spent budget answers, 429 or 402 (Payment Required)."""

    budget_status: Literal[402, 429] = 429
    dialect: Dialect = "problem"


class Answer(NamedTuple):
    """A response to send; the body is JSON."""

    status: int
    headers: dict[str, str]
    body: bytes


OPTIONS = HttpOptions()


def refusal(verdict: Verdict, now: int, options: HttpOptions = OPTIONS) -> Answer:
    """The answer to a request that was refused at `now` (µs UTC)."""
    status = _status(verdict, options)
    problem = _problem(verdict, status)
    openai = options.dialect == "openai"
    body = {"error": _openai_error(verdict, status, problem)} if openai else problem
    kind = "application/json" if openai else "application/problem+json"
    headers = {"Content-Type": kind, **_retry(verdict, status), **_limits(verdict, now)}
    return Answer(status, headers, json.dumps(body, separators=(",", ":")).encode())


def admitted_headers(reservation: Reservation) -> dict[str, str]:
    """Headers of the answer to a request that was let in: a change of model is never silent."""
    if reservation.degraded_from is None:
        return {}
    parts = {"from": reservation.degraded_from, "to": reservation.request.model or "",
             "decision": reservation.verdict.decision_id or ""}  # fmt: skip
    return {"Sluice-Degraded": ";".join(f"{name}={_text(v)}" for name, v in parts.items())}


def stopped_event(verdict: Verdict, options: HttpOptions = OPTIONS) -> bytes:
    """The server-sent event that ends a stream which was told to stop."""
    problem = _problem(verdict, 429)
    body: Mapping[str, Any] = problem
    if options.dialect == "openai":
        body = {"error": _openai_error(verdict, 429, problem)}
    return b"event: error\ndata: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _status(verdict: Verdict, options: HttpOptions) -> int:
    if verdict.reason_code in _BUSY or verdict.action in ("queue", "degrade"):
        return 503
    if verdict.reason_code in _FORBIDDEN:
        return 403
    if verdict.action == "block" and _is_budget(verdict):
        return options.budget_status
    return 429


def _is_budget(verdict: Verdict) -> bool:
    code = verdict.reason_code or ""
    concurrency = any(violated.unit == "concurrency" for violated in verdict.violated)
    return (code == LEASE_EXHAUSTED or code.startswith("BUDGET_")) and not concurrency


def _retry(verdict: Verdict, status: int) -> dict[str, str]:
    wait_s = None if verdict.retry_after_ms is None else max(1, -(-verdict.retry_after_ms // 1000))
    headers = {} if wait_s is None else {"Retry-After": str(wait_s)}
    # Clients of the OpenAI kind retry every 429 within seconds unless they are told not to.
    hopeless = wait_s is None or wait_s >= _SOON_S or verdict.reason_code == STEP_LIMIT
    if status in (402, 403) or (status == 429 and hopeless):
        headers["x-should-retry"] = "false"
    return headers


# ---- headers of limits


class _Limit(NamedTuple):
    name: str
    quota: int
    window_s: int | None
    unit: str
    remaining: int
    reset_s: int | None


def _limits(verdict: Verdict, now: int) -> dict[str, str]:
    limits = list(_limits_of(verdict, now))
    if not limits:
        return {}
    policies = (_item(n.name, q=n.quota, w=n.window_s, qu=n.unit) for n in limits)
    states = (_item(n.name, r=n.remaining, t=n.reset_s) for n in limits)
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def _limits_of(verdict: Verdict, now: int) -> Iterator[_Limit]:
    if verdict.rate is not None:
        wait_s = -(-(verdict.retry_after_ms or 0) // 1000)
        name = f"{verdict.policy_id}/{verdict.rule_id}"
        yield _Limit(name, verdict.rate.rate_per_minute, 60, "requests", 0, wait_s)
    for violated in verdict.violated:
        resets_at = violated.resets_at
        reset_s = None if resets_at is None else max(0, -(-(resets_at - now) // 10**6))
        unit, limit = _amount(violated.unit, violated.limit)
        _, left = _amount(violated.unit, max(0, violated.left or 0))
        name = f"{violated.policy_id}/{violated.budget_id}"
        yield _Limit(name, limit, None, unit, left, reset_s)


def _amount(unit: str, amount: int) -> tuple[str, int]:
    """Unit and amount as a header can carry them: pico-USD would not fit."""
    if unit == "pusd":
        unit, amount = "micro-usd", amount // _PUSD_PER_MICRO_USD
    elif unit == "concurrency":
        unit = "concurrent-requests"
    return unit, min(amount, _MAX_INTEGER)


def _item(name: str, **params: Any) -> str:
    """A structured field's item: a string with parameters, those that are None left out."""
    told = {key: value for key, value in params.items() if value is not None}
    tail = (f"{k}={_text(v) if isinstance(v, str) else v}" for k, v in told.items())
    return ";".join((_text(name), *tail))


def _text(value: str) -> str:
    """A structured field's string: printable ASCII, quotes escaped."""
    plain = "".join(c if " " <= c <= "~" else "_" for c in value)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ---- bodies


def _problem(verdict: Verdict, status: int) -> dict[str, Any]:
    kind, title = _kind(verdict, status)
    problem: dict[str, Any] = {
        "type": kind, "title": title, "status": status, "detail": verdict.reason,
        "code": verdict.reason_code, "action": verdict.action,
        "violated-policies": _violated_names(verdict), "decision_id": verdict.decision_id,
        "policy_id": verdict.policy_id, "policy_version": verdict.policy_version,
        "retry_after_ms": verdict.retry_after_ms,
    }  # fmt: skip
    return problem | _numbers(verdict)


def _kind(verdict: Verdict, status: int) -> tuple[str, str]:
    if status == 503:
        return f"{_TYPES}temporary-reduced-capacity", "Temporarily reduced capacity"
    if verdict.reason_code in _ABNORMAL:
        return f"{_TYPES}abnormal-usage-detected", "Abnormal usage detected"
    if status == 403:
        return "about:blank", "Forbidden"
    return f"{_TYPES}quota-exceeded", "Quota exceeded"


def _violated_names(verdict: Verdict) -> list[str]:
    if verdict.violated:
        return [f"{v.policy_id}/{v.budget_id}" for v in verdict.violated]
    return [] if verdict.policy_id is None else [f"{verdict.policy_id}/{verdict.rule_id}"]


def _numbers(verdict: Verdict) -> dict[str, Any]:
    if verdict.violated:
        return _budget_numbers(verdict.violated[0])
    numbers: dict[str, Any] = {} if verdict.scope is None else {"scope": verdict.scope}
    if verdict.evidence is None:
        return numbers
    window, observed, limit, unit = verdict.evidence
    return numbers | {"limit": limit, "used": observed, "unit": unit, "window": window}


def _budget_numbers(violated: Violation) -> dict[str, Any]:
    """What is used of a whole budget only the grantor knows; here is what is left of the lease."""
    resets_at = violated.resets_at
    return {
        "scope": violated.scope, "limit": violated.limit, "unit": violated.unit,
        "window": violated.period, "needed": violated.needed, "left": violated.left,
        "resets_at": None if resets_at is None else _rfc3339(resets_at),
    }  # fmt: skip


def _rfc3339(instant: int) -> str:
    return datetime.fromtimestamp(instant // 10**6, UTC).isoformat().replace("+00:00", "Z")


def _openai_error(verdict: Verdict, status: int, problem: Mapping[str, Any]) -> dict[str, Any]:
    kind = {402: "insufficient_quota", 403: "permission_error", 503: "server_error"}.get(
        status, "insufficient_quota" if _is_budget(verdict) else "rate_limit_exceeded"
    )
    code = kind if kind in ("insufficient_quota", "rate_limit_exceeded") else verdict.reason_code
    return {"message": verdict.reason, "type": kind, "param": None, "code": code,
            "sluice": dict(problem)}  # fmt: skip
