"""What is known of an operation when it is opened, and what it needs from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sluice.admission.handed import checked
from sluice.admission.outcomes import Slo
from sluice.admission.verdict import AdmissionRequest, Refused, Verdict


def steady_clock() -> int:
    """µs that never go back."""
    return time.monotonic_ns() // 1000


class Means(NamedTuple):
    """What operations need from outside.

    `settle` takes the event of an operation's end, once; `clock` is µs UTC, `steady` µs that never
    go back.
    """

    admit: Callable[[AdmissionRequest], Verdict]
    settle: Callable[[Mapping[str, Any]], object]
    clock: Callable[[], int]
    steady: Callable[[], int]
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a task something is opened; `steps` numbers what the task does, None = no task."""

    task_id: str | None = None
    agent_name: str | None = None
    workflow_name: str | None = None
    parent_event_id: str | None = None
    depth: int = 0
    steps: Iterator[int] | None = None

    def below(self, event_id: str) -> Place:
        """The place of what an operation opens."""
        return replace(self, parent_event_id=event_id, depth=self.depth + 1)

    def own(self, request: AdmissionRequest) -> AdmissionRequest:
        """The request as one of this place's task."""
        if self.task_id is None or request.task_id == self.task_id:
            return request
        return replace(request, task_id=self.task_id)

    def fields(self) -> dict[str, Any]:
        """Fields of the next event here; takes a step of the task."""
        return {
            "agent_name": self.agent_name, "workflow_name": self.workflow_name,
            "parent_event_id": self.parent_event_id, "depth": self.depth,
            "step": 0 if self.steps is None else next(self.steps),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Opening:
    """An operation before it runs: its event's fixed fields, and numbers for further attempts."""

    request: AdmissionRequest
    verdict: Verdict
    fields: Mapping[str, Any]
    slo: Slo
    place: Place
    attempts: Iterator[int]

    def again(self, kind: str, facts: Mapping[str, Any]) -> Opening:
        """A further attempt, with other `facts` where something differs."""
        given = checked(facts)
        attempt = {"attempt": next(self.attempts), "attempt_kind": kind}
        return replace(self, fields={**self.fields, **given, **attempt})


def admitted(means: Means, request: AdmissionRequest, verdict: Verdict | None) -> Verdict:
    """What admission says, asked unless `verdict` is given; raises Refused."""
    if verdict is None:
        verdict = means.admit(request)
    if not verdict.allowed:
        raise Refused(verdict)
    return verdict


def fields_of(request: AdmissionRequest, verdict: Verdict) -> dict[str, Any]:
    """Fields of UsageEvent that request and verdict fix."""
    return {
        "tenant_id": request.tenant_id, "project_id": request.project_id,
        "request_model": request.model or "", "tool_name": request.tool_name,
        "task_id": request.task_id, "end_user_hash": request.end_user_hash,
        "api_key_hash": request.api_key_hash, "region": request.region, "pool": request.pool,
        "priority": verdict.caps.priority or request.priority,
        "estimated_cost_pusd": request.estimated_cost_pusd,
        "max_output_tokens": _least(request.max_output_tokens, verdict.caps.max_tokens),
        "decision_id": verdict.decision_id, "policy_version": verdict.policy_version,
    }  # fmt: skip


def _least(asked: int | None, cap: int | None) -> int | None:
    return min((tokens for tokens in (asked, cap) if tokens is not None), default=None)
