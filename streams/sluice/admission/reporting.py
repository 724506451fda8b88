"""What an admission point did, as `admission` usage events.

Refusals are added up between two reports; a decision that arrived live is reported once with the
time it took to get here. Not thread-safe: the point locks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from sluice.admission.decision import Decision
from sluice.admission.verdict import AdmissionRequest, Verdict

# Stands for the tenant in the notice of a decision about any tenant: the event needs one.
ANY_TENANT = "__any__"
# Stands for the model where a gateway lets clients make up names without end.
OTHER_MODELS = "__other__"
MAX_GROUPS = 10_000
# Outcome of a request that an action refused; others reject it.
_OUTCOMES = {"rate_limit": "throttled", "queue": "queued_out"}
# Largest estimate that one event may carry, as usage validation has it.
MAX_ESTIMATE_PUSD = 9 * 10**18


class Emitter(Protocol):
    """Takes usage events; sees to their ids, sequence and delivery."""

    def emit(self, event: Mapping[str, Any]) -> object:
        """Send one event."""


class Group(NamedTuple):
    """Refusals that are reported together."""

    tenant_id: str
    project_id: str
    model: str
    action: str
    reason_code: str
    decision_id: str | None
    policy_version: str | None


@dataclass(slots=True)
class Refusals:
    """Refusals of one group since the last report; estimates that were not given stay None."""

    first_at: int
    last_at: int
    requests: int = 0
    estimated_cost_pusd: int | None = None

    def add(self, estimated_cost_pusd: int | None, now: int) -> None:
        """Count one refusal."""
        self.requests += 1
        self.last_at = max(self.last_at, now)
        if estimated_cost_pusd is not None:
            total = (self.estimated_cost_pusd or 0) + max(0, estimated_cost_pusd)
            self.estimated_cost_pusd = min(total, MAX_ESTIMATE_PUSD)


class Reports:
    """Collects what happened in the process `source` until it is drained."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._groups: dict[Group, Refusals] = {}
        self._notices: list[tuple[Decision, int]] = []

    def refused(self, request: AdmissionRequest, verdict: Verdict, now: int) -> None:
        """Count a refusal at `now` (µs UTC)."""
        group = _group(request, verdict, request.model or "")
        if group not in self._groups and len(self._groups) >= MAX_GROUPS:
            group = group._replace(model=OTHER_MODELS)
        refusals = self._groups.get(group)
        if refusals is None:
            refusals = self._groups[group] = Refusals(now, now)
        refusals.add(request.estimated_cost_pusd, now)

    def applied(self, decision: Decision, now: int) -> None:
        """Note that a live decision took hold at `now` (µs UTC)."""
        self._notices.append((decision, now))

    def clear(self) -> None:
        """Forget everything: a forked child must not tell its parent's news again."""
        self._groups, self._notices = {}, []

    def drain(self) -> list[dict[str, Any]]:
        """UsageEvents since the last call; id, epoch and sequence are the emitter's to give."""
        groups, notices = self._groups, self._notices
        self.clear()
        events = [self._notice(decision, at) for decision, at in notices]
        return events + [self._refusal(group, sums) for group, sums in groups.items()]

    def _refusal(self, group: Group, sums: Refusals) -> dict[str, Any]:
        event = self._event(group.tenant_id, group.action, sums.first_at, sums.last_at)
        return event | {
            "project_id": group.project_id,
            "request_model": group.model,
            "outcome": _OUTCOMES.get(group.action, "rejected"),
            "error_type": group.reason_code,
            "decision_id": group.decision_id,
            "policy_version": group.policy_version,
            "estimated_cost_pusd": sums.estimated_cost_pusd,
            "units": [{"key": "requests", "value": sums.requests}],
        }

    def _notice(self, decision: Decision, at: int) -> dict[str, Any]:
        scope = dict(decision.scope)
        event = self._event(scope.get("tenant_id", ANY_TENANT), decision.effect.action, at, at)
        # Where this clock is behind the broker's, the lag is at least nothing.
        lag_us = max(0, at - decision.issued_at)
        return event | {
            "project_id": scope.get("project_id", ""),
            "request_model": scope.get("model", ""),
            "outcome": "ok",
            "error_type": decision.reason_code,
            "decision_id": decision.decision_id,
            "policy_version": decision.policy_version,
            "units": [
                {"key": "requests", "value": 0},
                {"key": "applied_lag_us", "value": lag_us},
            ],
        }

    def _event(self, tenant_id: str, action: str, start: int, end: int) -> dict[str, Any]:
        return {
            "source": self._source,
            "event_type": "admission",
            "tenant_id": tenant_id,
            "started_at": start,
            "occurred_at": end,
            "operation_name": "admission",
            "provider_name": "",
            "usage_source": "estimated",
            "attributes": [{"key": "action", "value": action}],
        }


def _group(request: AdmissionRequest, verdict: Verdict, model: str) -> Group:
    return Group(
        request.tenant_id, request.project_id, model, verdict.action, verdict.reason_code or "",
        verdict.decision_id, verdict.policy_version,
    )  # fmt: skip
