"""Control messages for benchmarks: decisions of many shapes over many tenants, and a lease."""

from __future__ import annotations

import random
from collections.abc import Iterator

from sluice.admission.point import wall_clock
from sluice.admission.verdict import AdmissionRequest
from sluice.wire.codec import encode
from sluice.wire.scopes import scope_text

_HOUR_US = 3_600_000_000
# What decisions of a tenant are about; a request meets some of them.
_SHAPES: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("project_id", "p0"),), (("project_id", "p1"),),
    (("model", "m0"),), (("model", "m1"),), (("model", "m2"),),
    (("project_id", "p0"), ("model", "m0")), (("project_id", "p1"), ("model", "m1")),
    (("end_user_hash", "u0"),), (("region", "eu"), ("model", "m2")),
)  # fmt: skip
SHAPES = len(_SHAPES)
_ACTIONS = ("allow_with_caps", "rate_limit", "allow", "degrade", "isolate")

Message = tuple[bytes, bytes]


def decisions(tenants: int, *, sequence: int = 1) -> Iterator[Message]:
    """Key and value of SHAPES decisions for each tenant; the rates let nearly all through."""
    now = wall_clock()
    for number in range(tenants * SHAPES):
        tenant, shape = f"tenant-{number // SHAPES}", _SHAPES[number % SHAPES]
        action = _ACTIONS[number % len(_ACTIONS)]
        scope = {"tenant_id": tenant, **dict(shape)}
        key = f"decision|bench|r{number % SHAPES}|enforce|{scope_text(scope.items())}|"
        yield key.encode(), _decision(number, scope, action, sequence, now)


def _decision(number: int, scope: dict[str, str], action: str, sequence: int, now: int) -> bytes:
    evidence = {"window": "2026-11", "observed": 9, "limit": 10, "unit": "pusd", "offsets": []}
    params = {
        "allow_with_caps": {"max_tokens": 4096}, "degrade": {"max_tokens": 2048},
        "rate_limit": {"rate_per_minute": 6_000_000, "burst": 100_000},
        "isolate": {"pool": "shared"},
    }  # fmt: skip
    return encode("Decision", {
        "decision_id": f"d{number}", "kind": "decision", "policy_id": "bench",
        "rule_id": f"r{number % SHAPES}", "policy_version": "v1", "scope": scope,
        "action": action, "params": params.get(action, {}), "mode": "enforce",
        "reason_code": "BUDGET_BURN_RATE", "reason": "the tenant has spent 9 of 10 USD",
        "evidence": evidence, "epoch": 1, "sequence": sequence, "issued_at": now,
        "effective_at": now, "expires_at": now + 24 * _HOUR_US, "on_expiry": "open",
    })  # fmt: skip


def requests(tenants: int, count: int, seed: int) -> list[AdmissionRequest]:
    """Requests of random tenants, projects and models."""
    drawn = random.Random(seed)  # noqa: S311 - a workload
    return [
        AdmissionRequest(
            f"tenant-{drawn.randrange(tenants)}", f"p{drawn.randrange(2)}",
            f"m{drawn.randrange(3)}", end_user_hash=f"u{drawn.randrange(10)}", region="eu",
            estimated_cost_pusd=1000, input_tokens=100, max_output_tokens=500,
        )
        for _ in range(count)
    ]  # fmt: skip


def budget() -> Message:
    """A hard daily budget on every tenant."""
    return b"budget|bench|hard|0", encode("BudgetRule", {
        "policy_id": "bench", "policy_version": "v1", "budget_id": "hard", "mode": "enforce",
        "scope": ["tenant_id"], "unit": "pusd", "limit": 10**18, "period": "day", "hard": True,
        "source_partition": 0, "epoch": 1, "sequence": 1, "issued_at": wall_clock(),
    })  # fmt: skip


def lease(tenant: str, period: str, holder: str, source_epoch: str) -> Message:
    """A lease on the budget that no benchmark uses up."""
    now = wall_clock()
    key = f"lease|bench|hard|tenant_id={tenant}|{period}|{holder}|{source_epoch}"
    return key.encode(), encode("LeaseGrant", {
        "lease_id": "l", "policy_id": "bench", "budget_id": "hard",
        "scope": {"tenant_id": tenant}, "holder": holder, "period": period,
        "granted_total": 10**17, "unit": "pusd", "refresh_after_ms": 5000, "issued_at": now,
        "expires_at": now + _HOUR_US, "epoch": 1, "sequence": 1, "source_epoch": source_epoch,
    })  # fmt: skip
