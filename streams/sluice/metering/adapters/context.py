"""What only the gateway knows about a call, and the event that it and a payload make together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sluice.metering.adapters.reading import AdapterError, hashed
from sluice.metering.adapters.tokens import TokenCounts

# UsageEvent fields that a gateway or agent runtime may state beside the payload.
GATEWAY_FIELDS = frozenset({
    "event_id", "scheduled_at", "timing_quality", "api_key_hash", "end_user_hash",
    "conversation_id", "task_id", "parent_event_id", "agent_name", "workflow_name", "attempt",
    "attempt_kind", "step", "depth", "trace_id", "span_id", "deployment_id", "engine_replica_id",
    "region", "pool", "service_tier", "priority", "queue_us", "kv_bytes_per_token",
    "kv_peak_tokens", "recomputed_input_tokens", "io_read_bytes", "io_write_bytes",
    "net_in_bytes", "net_out_bytes", "prefix_block_ids", "units", "reservation_id", "lease_id",
    "estimated_cost_pusd", "max_output_tokens", "decision_id", "plan_id", "policy_version",
    "slo_outcome", "rollback_reason", "risk_flags", "compliance", "attributes",
})  # fmt: skip
# A call that ended so may come without usage: it counts as 0 tokens, "estimated".
_WITHOUT_USAGE = frozenset({"error", "rejected", "throttled", "queued_out"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """A call as the gateway saw it; times in µs UTC, tenant and project as it resolved them.

    `outcome` and `error_type` win over what the payload says: only the gateway knows that a client
    went away. `api_key` and `end_user` are hashed under `salt` and never kept. `fields` holds
    further fields of the event, of GATEWAY_FIELDS.

    Raises AdapterError: missing_context, bad_context.
    """

    tenant_id: str
    project_id: str
    started_at: int
    occurred_at: int
    first_token_at: int | None = None
    provider_name: str | None = None
    request_model: str | None = None
    stream: bool | None = None
    outcome: str | None = None
    error_type: str | None = None
    usage_source: str = "provider"
    api_key: str | None = field(default=None, repr=False)
    end_user: str | None = field(default=None, repr=False)
    salt: bytes = field(default=b"", repr=False)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("tenant_id", "project_id"):
            if not getattr(self, name):
                raise AdapterError("missing_context", f"{name} is empty")
        for name in ("started_at", "occurred_at", "first_token_at"):
            at = getattr(self, name)
            if type(at) is not int and not (at is None and name == "first_token_at"):
                raise AdapterError("bad_context", f"{name} is not a whole number of µs")
        unknown = sorted(set(self.fields) - GATEWAY_FIELDS)
        if unknown:
            raise AdapterError("bad_context", f"a gateway does not state {', '.join(unknown)}")

    def beside(self, **known: Any) -> CallContext:
        """The same with fields that the payload knows, where the gateway did not state them."""
        stated = {name: value for name, value in known.items() if value is not None}
        return replace(self, fields={**stated, **self.fields})


_CONTEXT_NAMES = frozenset(f.name for f in fields(CallContext)) - {"salt", "fields"}
_TEXTS = ("tenant_id", "project_id", "provider_name", "request_model", "outcome", "error_type",
          "usage_source", "api_key", "end_user")  # fmt: skip


def context_of(stated: Mapping[str, Any], salt: bytes = b"") -> CallContext:
    """A context from a flat JSON object, in which GATEWAY_FIELDS stand beside the others."""
    own = {name: value for name, value in stated.items() if name in _CONTEXT_NAMES}
    others = {name: value for name, value in stated.items() if name not in _CONTEXT_NAMES}
    missing = [
        name
        for name in ("tenant_id", "project_id", "started_at", "occurred_at")
        if own.get(name) is None
    ]
    if missing:
        raise AdapterError("missing_context", f"the context needs {', '.join(missing)}")
    for name in _TEXTS:
        if not isinstance(own.get(name, ""), str | None):
            raise AdapterError("bad_context", f"{name} is not a text")
    return CallContext(**own, salt=salt, fields=others)


def call_event(context: CallContext, *, tokens: TokenCounts | None, provider_name: str,
               response_model: str | None, operation_name: str = "chat",
               event_type: str = "inference", error_type: str | None = None,
               **known: Any) -> dict[str, Any]:  # fmt: skip
    """The event of a model call; `known` are further fields, left out where None or empty.

    Raises AdapterError: missing_usage where a call that ran states none, missing_field where
    neither gateway nor provider names the model.
    """
    event = base_event(context, error_type) | known
    request_model = context.request_model or response_model
    if request_model is None:
        raise AdapterError("missing_field", "neither context nor payload names the model")
    if tokens is None and event["outcome"] not in _WITHOUT_USAGE:
        raise AdapterError(
            "missing_usage",
            "the payload states no usage: have the provider send it (stream_options.include_usage "
            "for OpenAI streams), or count, put a usage in and set usage_source",
        )
    if tokens is None:
        event["usage_source"] = "estimated"
    event |= {
        "event_type": event_type, "operation_name": operation_name,
        "provider_name": context.provider_name or provider_name,
        "request_model": request_model, "response_model": response_model,
    }  # fmt: skip
    return without_blanks(event | (tokens.fields() if tokens else {}))


def base_event(context: CallContext, error_type: str | None) -> dict[str, Any]:
    """What every event of a context says: whose it is, when it ran, how it ended."""
    salt, first = context.salt, context.first_token_at
    event: dict[str, Any] = {
        **context.fields,
        "tenant_id": context.tenant_id, "project_id": context.project_id,
        "started_at": context.started_at, "occurred_at": context.occurred_at,
        "first_token_at": first,
        "ttft_us": None if first is None else first - context.started_at,
        "latency_us": context.occurred_at - context.started_at,
        "stream": context.stream,
        "usage_source": context.usage_source,
        "outcome": context.outcome or ("error" if error_type else "ok"),
        "error_type": context.error_type or error_type,
    }  # fmt: skip
    if context.api_key:
        event["api_key_hash"] = hashed(context.api_key, salt)
    if context.end_user:
        event["end_user_hash"] = hashed(context.end_user, salt)
    return event


def without_blanks(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event without fields that say nothing: null and empty lists are their defaults."""
    return {name: value for name, value in event.items() if value is not None and value != []}
