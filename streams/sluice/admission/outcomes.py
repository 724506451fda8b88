"""How an operation ended, and whether that was good enough."""

from __future__ import annotations

from typing import NamedTuple

OUTCOMES = frozenset(
    {"ok", "error", "cancelled", "rejected", "throttled", "degraded", "queued_out", "preempted"}
)
_DELIVERED = frozenset({"ok", "degraded"})


class Ending(NamedTuple):
    """Outcome of an operation and, for an error, its class."""

    outcome: str
    error_type: str | None = None


class Slo(NamedTuple):
    """Targets of an operation, µs from its admission; None = no such target."""

    ttft_us: int | None = None
    latency_us: int | None = None


def ended_by(error: BaseException | None) -> Ending:
    """How a block ended that `error` left, None = nothing did.

    What is no Exception tells the block to stop (a cancelled task, a closed generator, a process
    that ends) and is no fault of the operation.
    """
    if error is None:
        return Ending("ok")
    if not isinstance(error, Exception):
        return Ending("cancelled")
    return Ending("error", type(error).__name__)


def slo_outcome(slo: Slo, outcome: str, ttft_us: int | None, latency_us: int) -> str | None:
    """good, slow or failed; None where no target is given or none can be judged.

    A cancelled operation is not judged: that its client gave up, only the caller knows.
    """
    if slo == Slo() or outcome == "cancelled":
        return None
    if outcome not in _DELIVERED:
        return "failed"
    judged = [
        measured > target
        for measured, target in ((ttft_us, slo.ttft_us), (latency_us, slo.latency_us))
        if measured is not None and target is not None
    ]
    if not judged:
        return None
    return "slow" if any(judged) else "good"
