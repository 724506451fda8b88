"""Messages of the control topic for tests; every field can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluice.admission.point import AdmissionPoint
from sluice.wire.codec import encode

NOW = 1_800_000_000_000_000
MINUTE_US = 60_000_000


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Sent(list[Mapping[str, Any]]):
    """An emitter that keeps what it was given."""

    def emit(self, event: Mapping[str, Any]) -> None:
        """Keep one event."""
        self.append(event)


def key_of(rule: str = "r", scope: str = "tenant_id=acme", mode: str = "enforce") -> bytes:
    """A control key."""
    return f"decision|p|{rule}|{mode}|{scope}|".encode()


def decision(action: str = "block", **over: Any) -> bytes:
    """A framed Decision about tenant acme, in force from NOW for an hour."""
    record = {
        "decision_id": f"id-{action}", "kind": "decision", "policy_id": "p", "rule_id": "r",
        "policy_version": "v1", "scope": {"tenant_id": "acme"}, "action": action, "params": {},
        "mode": "enforce", "reason_code": "BUDGET_EXHAUSTED",
        "reason": "acme has spent 2 of 1 USD", "epoch": 1, "sequence": 1, "issued_at": NOW,
        "evidence": {"window": "d", "observed": 2, "limit": 1, "unit": "pusd", "offsets": []},
        "effective_at": NOW, "expires_at": NOW + 60 * MINUTE_US, "on_expiry": "open",
    }  # fmt: skip
    return encode("Decision", record | over)


def slow(per_minute: int = 60, burst: int = 2, **over: Any) -> bytes:
    """A framed rate limit."""
    params = {"rate_per_minute": per_minute, "burst": burst}
    return decision("rate_limit", **({"params": params, "reason_code": "RATE_EXCEEDED"} | over))


def heartbeat(partition: int = 0, **over: Any) -> bytes:
    """A framed Heartbeat."""
    record = {"source_partition": partition, "epoch": 1, "sequence": 1, "issued_at": NOW,
              "watermark": NOW}  # fmt: skip
    return encode("Heartbeat", record | over)


def rule_key(budget: str = "b", partition: int = 0) -> bytes:
    """A control key of a budget."""
    return f"budget|p|{budget}|{partition}".encode()


def budget_rule(**over: Any) -> bytes:
    """A framed BudgetRule: a hard daily limit of 1000 pico-USD on every tenant."""
    record = {
        "policy_id": "p", "policy_version": "v1", "budget_id": "b", "mode": "enforce",
        "scope": ["tenant_id"], "unit": "pusd", "limit": 1000, "period": "day", "hard": True,
        "lease_wait_ms": 60, "source_partition": 0, "epoch": 1, "sequence": 1, "issued_at": NOW,
    }  # fmt: skip
    return encode("BudgetRule", record | over)


def lease(**over: Any) -> bytes:
    """A framed LeaseGrant."""
    record = {
        "lease_id": "l", "policy_id": "p", "budget_id": "b", "scope": {"tenant_id": "acme"},
        "holder": "gw", "period": "d", "granted_total": 5, "unit": "pusd", "refresh_after_ms": 1,
        "issued_at": NOW, "expires_at": NOW + MINUTE_US, "epoch": 1, "sequence": 1,
    }  # fmt: skip
    return encode("LeaseGrant", record | over)


def point(*messages: bytes, clock: Clock | None = None, **over: Any) -> AdmissionPoint:
    """A ready admission point that holds these decisions, each under a key of its own."""
    made = AdmissionPoint(None, clock=clock or Clock(), **over)
    made.adopt(made.empty_state())
    for number, message in enumerate(messages):
        made.apply(0, key_of(f"r{number}"), message)
    return made
