"""LiteLLM's StandardLoggingPayload, as its callbacks get it (field names as of LiteLLM 1.109).

`response_cost` is LiteLLM's own estimate from its price list and is left out: this pipeline prices
usage itself. `messages`, `response` and error texts are never read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sluice.metering.adapters.anthropic_messages import message_counts
from sluice.metering.adapters.attribution import Attribution, DottedPaths
from sluice.metering.adapters.context import CallContext, base_event, call_event, without_blanks
from sluice.metering.adapters.openai_chat import OTHER_ERROR
from sluice.metering.adapters.openai_usage import CHAT, bill, usage_counts
from sluice.metering.adapters.reading import (
    AdapterError,
    agreed,
    amount,
    content_hash,
    hashed,
    label,
    quantities,
    scaled,
    section,
    text,
    word,
    word_if_any,
)
from sluice.metering.adapters.tokens import TokenCounts, server_tools
from sluice.metering.litellm import otel_provider

LITELLM_ATTRIBUTION = Attribution("metadata.user_api_key_org_id", "metadata.user_api_key_team_id")

_US_PER_S = 1_000_000
_OPERATIONS = {
    "completion": "chat", "responses": "chat", "anthropic_messages": "chat",
    "pass_through_endpoint": "chat", "llm_passthrough_route": "chat",
    "text_completion": "text_completion", "embedding": "embeddings",
    "generate_content": "generate_content", "generate_content_stream": "generate_content",
    "image_generation": "generate_content", "image_edit": "generate_content",
}  # fmt: skip
_KEY_HASH = re.compile(r"[0-9a-f]{64}")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_NOTHING_USED = TokenCounts(input_uncached=0)


def from_litellm(payload: Mapping[str, Any], *, attribution: Attribution = LITELLM_ATTRIBUTION,
                 salt: bytes = b"") -> dict[str, Any]:  # fmt: skip
    """The event of a logged model call or MCP tool call.

    An answer from LiteLLM's cache used no tokens and cost nothing: its counts repeat the first
    call's and are left out. What LiteLLM itself refused has the outcome throttled or rejected.
    Raises AdapterError; not_metered for calls that are neither (files, batches, rerank, speech).
    """
    context = _context(payload, attribution, salt)
    call_type = str(payload.get("call_type"))
    if call_type == "call_mcp_tool":
        return _tool_event(payload, context)
    operation = _OPERATIONS.get(call_type) or _OPERATIONS.get(call_type.removeprefix("a"))
    if operation is None:
        what = word_if_any(payload, "call_type")
        raise AdapterError("not_metered", f"call_type {what} is no model call")
    provider = _provider(payload)
    usage = _usage(payload)
    from_cache = payload.get("cache_hit") is True
    return call_event(
        context,
        tokens=_NOTHING_USED if from_cache else _counts(payload, usage, operation),
        provider_name=provider,
        response_model=word(payload, "model"),
        operation_name=operation,
        event_type="embedding" if operation == "embeddings" else "inference",
        error_type=_error_type(payload),
        server_tool_requests=[] if from_cache else server_tools(usage),
        units=[] if from_cache else _images(usage),
        **({"cost_pusd": 0, "cost_source": "provider"} if from_cache else bill(usage, provider)),
    )


def _context(payload: Mapping[str, Any], attribution: Attribution, salt: bytes) -> CallContext:
    metadata = section(payload, "metadata")
    stream = payload.get("stream") is True
    trace_id = word_if_any(payload, "trace_id")
    session_id = word_if_any(payload, "session_id")
    tenant, project = attribution.owners(DottedPaths(payload))
    return CallContext(
        tenant_id=tenant,
        project_id=project,
        started_at=_at(payload, "startTime"),
        occurred_at=_at(payload, "endTime"),
        # Without a stream LiteLLM repeats the end here.
        first_token_at=_at(payload, "completionStartTime") if stream else None,
        request_model=word(payload, "model_group"),
        stream=stream,
        outcome=_outcome(payload),
        end_user=text(payload, "end_user"),
        salt=salt,
    ).beside(
        api_key_hash=_key_hash(metadata, salt),
        deployment_id=word_if_any(payload, "model_id"),
        trace_id=trace_id if trace_id and _TRACE_ID.fullmatch(trace_id) else None,
        conversation_id=session_id if session_id != trace_id else None,
        attributes=[{"key": "litellm.cache_hit", "value": "true"}]
        if payload.get("cache_hit") is True
        else None,
    )


def _usage(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    found = section(section(payload, "metadata"), "usage_object")
    return found or section(section(payload, "hidden_params"), "usage_object")


def _counts(payload: Mapping[str, Any], usage: Mapping[str, Any],
            operation: str) -> TokenCounts | None:  # fmt: skip
    if usage and CHAT.input not in usage and "input_tokens" in usage:
        return message_counts(usage)  # Anthropic's own words, from its pass-through
    named = (*CHAT[:2], "total_tokens")
    if not usage and not any(map(payload.get, named)):
        return None
    for name in CHAT[:2]:
        agreed(name, [amount(usage, name), amount(payload, name)])
    stated = usage or {name: payload.get(name) for name in named}
    return usage_counts(stated, generates=operation != "embeddings")


def _images(usage: Mapping[str, Any]) -> list[dict[str, Any]]:
    images = amount(usage, "output_image_count")
    return quantities([("images", images.value)] if images else [])


def _provider(payload: Mapping[str, Any]) -> str:
    error = section(payload, "error_information")
    found = word(payload, "custom_llm_provider") or word_if_any(error, "llm_provider")
    if found is None:
        raise AdapterError("missing_field", "custom_llm_provider is absent")
    return otel_provider(found) or found


def _error_type(payload: Mapping[str, Any]) -> str | None:
    if payload.get("status") != "failure":
        return None
    error = section(payload, "error_information")
    return word_if_any(error, "error_class", "error_code") or OTHER_ERROR


def _outcome(payload: Mapping[str, Any]) -> str | None:
    """What LiteLLM refused before any provider saw it; None for all else."""
    if payload.get("status") != "failure":
        return None
    error = section(payload, "error_information")
    if error.get("error_class") == "BudgetExceededError":
        return "rejected"
    own = str(error.get("error_rate_limit_category")).startswith("litellm_")
    return "throttled" if own else None


def _tool_event(payload: Mapping[str, Any], context: CallContext) -> dict[str, Any]:
    called = section(section(payload, "metadata"), "mcp_tool_call_metadata")
    name = label(called, "name")
    if name is None:
        raise AdapterError("missing_field", "mcp_tool_call_metadata has no name")
    event = base_event(context, _error_type(payload)) | {
        "event_type": "tool", "operation_name": "execute_tool", "provider_name": "",
        "request_model": "", "tool_name": name, "tool_type": "extension",
        "tool_server": label(called, "mcp_server_name"),
        "tool_args_hash": content_hash(called.get("arguments"), context.salt),
        "result_hash": content_hash(called.get("result"), context.salt),
    }  # fmt: skip
    return without_blanks(event)


def _key_hash(metadata: Mapping[str, Any], salt: bytes) -> str | None:
    """LiteLLM's own SHA-256 of the key as it is, so that it joins to its tables; else hashed."""
    found = text(metadata, "user_api_key_hash")
    if found is None or _KEY_HASH.fullmatch(found):
        return found
    return hashed(found, salt)


def _at(payload: Mapping[str, Any], name: str) -> int:
    at = scaled(payload, name, _US_PER_S)
    if at is None:
        raise AdapterError("missing_field", f"{name} is absent")
    return at
