"""OpenTelemetry GenAI spans: names of semantic conventions 1.40 to today's, and older ones.

Of a name that changed every form is read; two forms that disagree are refused. Content attributes
(messages, instructions, arguments, results) are hashed where a tool event needs it, else not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluice.metering.adapters.attribution import Attribution
from sluice.metering.adapters.context import CallContext, base_event, call_event, without_blanks
from sluice.metering.adapters.openai_chat import OTHER_ERROR
from sluice.metering.adapters.otel_attributes import attributes_of, failed, hex_id, times_of
from sluice.metering.adapters.reading import (
    AdapterError,
    Amount,
    agreed,
    amount,
    content_hash,
    label,
    scaled,
    section,
    text,
    word,
    word_if_any,
)
from sluice.metering.adapters.tokens import MODALITIES, Across, TokenCounts, disjoint

OTEL_ATTRIBUTION = Attribution("sluice.tenant_id", "sluice.project_id")

_CALLS = {
    "chat": "inference", "text_completion": "inference", "generate_content": "inference",
    "embeddings": "embedding",
}  # fmt: skip
_US_PER_S = 1_000_000
_USAGE = "gen_ai.usage."
# Today's name first, then what it was called: in 1.40 and 1.41, before 1.27, by instrumentations.
_INPUT = (f"{_USAGE}input_tokens", f"{_USAGE}prompt_tokens")
_OUTPUT = (f"{_USAGE}output_tokens", f"{_USAGE}completion_tokens")
_READ = (f"{_USAGE}cache_read.input_tokens", f"{_USAGE}cache_read_input_tokens",
         f"{_USAGE}input_tokens.cached")  # fmt: skip
_WRITE = (f"{_USAGE}cache_write.input_tokens", f"{_USAGE}cache_creation.input_tokens",
          f"{_USAGE}cache_creation_input_tokens", f"{_USAGE}cache_write_input_tokens",
          f"{_USAGE}input_tokens.cache_write")  # fmt: skip
_REASONING = (f"{_USAGE}reasoning.output_tokens", f"{_USAGE}reasoning_tokens",
              f"{_USAGE}output_tokens.reasoning")  # fmt: skip
_FIRST_CHUNK = ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token")
_TIERS = ("openai.response.service_tier", "gen_ai.openai.response.service_tier")
_END_USERS = ("enduser.pseudo.id", "enduser.id", "user.id")
# Values of gen_ai.system, which gen_ai.provider.name replaced in 1.37.
_OLD_SYSTEMS = {
    "az.ai.openai": "azure.ai.openai", "az.ai.inference": "azure.ai.inference",
    "vertex_ai": "gcp.vertex_ai", "gemini": "gcp.gemini", "xai": "x_ai",
    "mistral": "mistral_ai",
}  # fmt: skip


def from_otel_span(span: Mapping[str, Any], *, attribution: Attribution = OTEL_ATTRIBUTION,
                   salt: bytes = b"") -> dict[str, Any]:  # fmt: skip
    """The event of a span of a model call, a tool or an agent; its resource stands in `resource`.

    Tenant and project are looked up in the span's attributes, then in the resource's. A span of an
    agent becomes a tool event without tokens, for its usage repeats what the calls inside report.
    Raises AdapterError; not_metered for spans of another operation.
    """
    attributes = attributes_of(span)
    owned = attributes_of(section(span, "resource")) | attributes
    operation = word(attributes, "gen_ai.operation.name")
    if operation in {"execute_tool", "invoke_agent"}:
        return _tool_event(span, attributes, _context(span, attributes, owned, attribution, salt))
    if operation not in _CALLS:
        raise AdapterError("not_metered", f"gen_ai.operation.name {operation} uses no tokens")
    context = _context(span, attributes, owned, attribution, salt)
    provider = _provider(attributes)
    if provider is None:
        raise AdapterError("missing_field", "gen_ai.provider.name is absent")
    return call_event(
        context,
        tokens=_counts(attributes, generates=operation != "embeddings"),
        provider_name=provider,
        response_model=word(attributes, "gen_ai.response.model"),
        operation_name=operation,
        event_type=_CALLS[operation],
        error_type=_error_type(span, attributes),
        finish_reason=_finish_reason(attributes),
    )


def _context(span: Mapping[str, Any], attributes: Mapping[str, Any], owned: Mapping[str, Any],
             attribution: Attribution, salt: bytes) -> CallContext:  # fmt: skip
    start, end = times_of(span)
    tenant, project = attribution.owners(owned)
    return CallContext(
        tenant_id=tenant,
        project_id=project,
        started_at=start,
        occurred_at=end,
        first_token_at=_first_token(attributes, start),
        request_model=word(attributes, "gen_ai.request.model"),
        stream=_stream(attributes),
        end_user=next(filter(None, (text(attributes, name) for name in _END_USERS)), None),
        salt=salt,
    ).beside(
        trace_id=hex_id(span, ("traceId", "trace_id"), 32),
        span_id=hex_id(span, ("spanId", "span_id"), 16),
        conversation_id=label(attributes, "gen_ai.conversation.id"),
        agent_name=label(attributes, "gen_ai.agent.name"),
        workflow_name=label(attributes, "gen_ai.workflow.name"),
        service_tier=word_if_any(attributes, *_TIERS),
    )


def _counts(attributes: Mapping[str, Any], *, generates: bool) -> TokenCounts | None:
    given, made = _stated(attributes, _INPUT), _stated(attributes, _OUTPUT)
    if given is None and made is None:
        return None
    if given is None or (made is None and generates):
        missing = _INPUT if given is None else _OUTPUT
        raise AdapterError("missing_usage", f"the span has no {missing[0]}")
    return disjoint(
        total=given,
        read=_stated(attributes, _READ) or Amount(_READ[0], 0),
        write=_stated(attributes, _WRITE) or Amount(_WRITE[0], 0),
        output=made or Amount(_OUTPUT[0], 0),
        reasoning=_stated(attributes, _REASONING) or Amount(_REASONING[0], 0),
        across=Across(
            input_by_modality=_by_modality(attributes, "input_tokens"),
            read_by_modality=_by_modality(attributes, "cache_read.input_tokens"),
            output_by_modality=_by_modality(attributes, "output_tokens"),
        ),
    )


def _stated(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Amount | None:
    known = [found for name in names if (found := amount(attributes, name)) is not None]
    return agreed(names[0], known) if known else None


def _by_modality(attributes: Mapping[str, Any], what: str) -> tuple[tuple[str, Amount], ...]:
    found = ((m, amount(attributes, f"{_USAGE}{m}.{what}")) for m in MODALITIES)
    return tuple((modality, stated) for modality, stated in found if stated is not None)


def _provider(attributes: Mapping[str, Any]) -> str | None:
    old = word(attributes, "gen_ai.system")
    return word(attributes, "gen_ai.provider.name") or _OLD_SYSTEMS.get(old or "", old)


def _error_type(span: Mapping[str, Any], attributes: Mapping[str, Any]) -> str | None:
    found = word_if_any(attributes, "error.type")
    return found or (OTHER_ERROR if failed(span) or attributes.get("error.type") else None)


def _finish_reason(attributes: Mapping[str, Any]) -> str | None:
    reasons = attributes.get("gen_ai.response.finish_reasons")
    listed = reasons if isinstance(reasons, list | tuple) else [reasons]
    words = (word_if_any({"reason": reason}, "reason") for reason in listed)
    return ",".join(dict.fromkeys(filter(None, words))) or None


def _first_token(attributes: Mapping[str, Any], start: int) -> int | None:
    waits = (scaled(attributes, name, _US_PER_S) for name in _FIRST_CHUNK)
    return next((start + wait for wait in waits if wait is not None), None)


def _stream(attributes: Mapping[str, Any]) -> bool | None:
    stream = attributes.get("gen_ai.request.stream")
    return stream if isinstance(stream, bool) else None


def _tool_event(span: Mapping[str, Any], attributes: Mapping[str, Any],
                context: CallContext) -> dict[str, Any]:  # fmt: skip
    operation = attributes["gen_ai.operation.name"]
    agent = operation == "invoke_agent"
    name = label(attributes, "gen_ai.agent.name" if agent else "gen_ai.tool.name")
    if name is None:
        what = "gen_ai.agent.name" if agent else "gen_ai.tool.name"
        raise AdapterError("missing_field", f"{what} is absent")
    given, result = _CONTENT[operation]
    event = base_event(context, _error_type(span, attributes)) | {
        "event_type": "tool", "operation_name": operation,
        "provider_name": _provider(attributes) or "",
        "request_model": context.request_model or "",
        "tool_name": name,
        "tool_type": "agent" if agent else label(attributes, "gen_ai.tool.type"),
        "tool_call_id": word_if_any(attributes, "gen_ai.tool.call.id"),
        "tool_server": word_if_any(attributes, "server.address"),
        "tool_args_hash": content_hash(attributes.get(given), context.salt),
        "result_hash": content_hash(attributes.get(result), context.salt),
    }  # fmt: skip
    return without_blanks(event)


# Attributes with what goes into a tool or agent and what comes out.
_CONTENT = {
    "execute_tool": ("gen_ai.tool.call.arguments", "gen_ai.tool.call.result"),
    "invoke_agent": ("gen_ai.input.messages", "gen_ai.output.messages"),
}
