"""What a request of a trace becomes: a question to admission, and a usage event at its end.

Instants are rebased to the replay's begin and compressed by its speed; measured durations
(queue_us, ttft_us, latency_us) stay what they were measured as.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluice.admission.verdict import AdmissionRequest, Verdict
from sluice.metering.prices import PriceBook
from sluice.metering.rating import cost
from sluice.replay.ledger import event_id
from sluice.replay.rows import TraceRequest
from sluice.wire.codec import decode, encode

MAX_OUTPUT_TOKENS = 1024
_MINTED = frozenset({"event_id", "source", "source_epoch", "source_seq"})
# What a ledger line says of an event: always these ...
_COUNTED = (
    "tenant_id", "project_id", "event_type", "provider_name", "request_model", "outcome",
    "occurred_at", "input_tokens", "output_tokens", "cache_read_input_tokens",
    "cache_write_input_tokens", "reasoning_output_tokens",
)  # fmt: skip
# ... and these where the event has them.
_OPTIONAL = (
    "response_model", "service_tier", "cache_write_by_ttl", "tokens_by_modality", "units",
    "server_tool_requests", "cost_pusd", "cost_source", "decision_id", "policy_version",
    "estimated_cost_pusd", "finish_reason", "tool_name", "tool_server", "gpu_us", "kv_byte_ms",
)  # fmt: skip

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a run's requests happen: `begin` in µs UTC is where the trace's first one stands."""

    run_id: str
    begin: int
    speed: float

    @property
    def project_id(self) -> str:
        """Project that all usage of the run carries, so that runs on one stack do not mix."""
        return project_of(self.run_id)

    def instant(self, offset_us: int) -> int:
        """Wall time (µs UTC) of an offset in the trace."""
        return self.begin + round(offset_us / self.speed)

    def arrival(self, request: TraceRequest) -> int:
        """Wall time at which a request arrives."""
        return self.instant(request.arrival_us)


def project_of(run_id: str) -> str:
    """The project of a run."""
    return f"replay-{run_id}"


def usage_event(schedule: Schedule, number: int, request: TraceRequest) -> Event:
    """The whole UsageEvent of an admitted request, without what the emitter fills in."""

    def after(duration_us: int | None) -> int | None:
        if duration_us is None:
            return None
        return schedule.instant(request.arrival_us + min(duration_us, request.latency_us or 0))

    return {
        **_BLANK, **_measured(request), **(request.event or {}),
        **_relations(schedule, request),
        "event_id": event_id(schedule.run_id, number), "project_id": schedule.project_id,
        "started_at": schedule.arrival(request), "scheduled_at": after(request.queue_us),
        "first_token_at": after(request.ttft_us), "occurred_at": after(request.latency_us or 0),
        "max_output_tokens": _declared(request),
    }  # fmt: skip


def declared_max(request: TraceRequest) -> int:
    """max_tokens of a request: 1,024, or the power of two that holds a longer output."""
    longest = max(MAX_OUTPUT_TOKENS, request.output_tokens)
    return 1 << (longest - 1).bit_length()


def _declared(request: TraceRequest) -> int | None:
    event = request.event or {}
    said: int | None = event.get("max_output_tokens")
    if said is not None or event.get("event_type") == "tool":
        return said
    return declared_max(request)


def _relations(schedule: Schedule, request: TraceRequest) -> Event:
    """Task and parent by the names that they have in this run."""
    relations: Event = {}
    if request.task is not None:
        # Of this run only: tasks of two runs on one stack must not become one.
        relations["task_id"] = f"{schedule.run_id}/{request.task}"
    if request.parent is not None:
        relations["parent_event_id"] = event_id(schedule.run_id, request.parent)
    return relations


def question(event: Event, book: PriceBook) -> AdmissionRequest:
    """What a gateway asks before it runs the request whose outcome will be `event`."""
    return AdmissionRequest(
        event["tenant_id"], event["project_id"], event["request_model"],
        tool_name=event["tool_name"], task_id=event["task_id"],
        end_user_hash=event["end_user_hash"], api_key_hash=event["api_key_hash"],
        region=event["region"], pool=event["pool"],
        estimated_cost_pusd=estimate_pusd(event, book),
        max_output_tokens=event["max_output_tokens"],
    )  # fmt: skip


def estimate_pusd(event: Event, book: PriceBook) -> int | None:
    """Cost if the output gets as long as declared and nothing comes from cache; None = no price."""
    generates = event["event_type"] == "inference"
    unknown_yet: Event = {
        "output_tokens": event["max_output_tokens" if generates else "output_tokens"],
        "reasoning_output_tokens": 0, "cache_read_input_tokens": 0,
        "cache_write_input_tokens": 0, "cache_write_by_ttl": [], "cost_pusd": None,
    }  # fmt: skip
    try:
        estimate = cost(book, event | unknown_yet)
    except OverflowError:
        return None
    return estimate.cost_pusd if estimate else None


def held_to(event: Event, verdict: Verdict, estimated_cost_pusd: int | None) -> Event:
    """The event under what admission said: the decision in force, and its cap on the output."""
    told: Event = {
        "decision_id": verdict.decision_id, "policy_version": verdict.policy_version,
        "estimated_cost_pusd": estimated_cost_pusd,
    }  # fmt: skip
    cap = verdict.caps.max_tokens
    if cap is not None and cap < event["output_tokens"]:
        reasoning = min(cap, event["reasoning_output_tokens"])
        told |= {"output_tokens": cap, "reasoning_output_tokens": reasoning,
                 "finish_reason": "length"}  # fmt: skip
    return event | told


def facts_of(event: Event) -> dict[str, Any]:
    """What the ledger says of an event: enough to price it, and to make it again."""
    optional = {name: event[name] for name in _OPTIONAL if event[name]}
    return {name: event[name] for name in _COUNTED} | optional


def orphaned(event: Event) -> dict[str, Any]:
    """What the ledger says of a tool call that never came, because its caller was refused."""
    return {"tenant_id": event["tenant_id"], "action": "block", "reason_code": "CALLER_REFUSED",
            "reason": "the call that would have asked for this tool was refused",
            "decision_id": None}  # fmt: skip


def refusal_of(event: Event, verdict: Verdict) -> dict[str, Any]:
    """What the ledger says of a refusal."""
    return {"tenant_id": event["tenant_id"], "action": verdict.action,
            "reason_code": verdict.reason_code, "reason": verdict.reason,
            "decision_id": verdict.decision_id}  # fmt: skip


def _measured(request: TraceRequest) -> Event:
    return {
        "timing_quality": request.timing_quality, "tenant_id": request.tenant_id,
        "provider_name": request.provider_name, "request_model": request.model,
        "input_tokens": request.input_tokens, "output_tokens": request.output_tokens,
        "cache_read_input_tokens": request.cache_read_input_tokens,
        "usage_source": request.usage_source, "queue_us": request.queue_us,
        "ttft_us": request.ttft_us, "latency_us": request.latency_us,
    }  # fmt: skip


def blank_event() -> Event:
    """An event with the default of every field: pricing reads fields that a trace lacks."""
    least = {
        "event_id": "", "source": "", "source_epoch": "", "event_type": "inference",
        "occurred_at": 0, "started_at": 0, "tenant_id": "", "project_id": "",
        "operation_name": "chat", "provider_name": "", "request_model": "", "outcome": "ok",
    }  # fmt: skip
    whole = decode(encode("UsageEvent", least))[1]
    return {name: value for name, value in whole.items() if name not in _MINTED}


_BLANK = blank_event()
