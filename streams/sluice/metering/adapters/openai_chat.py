"""OpenAI chat completions, completions and embeddings, and what speaks like them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sluice.metering.adapters.context import CallContext, call_event
from sluice.metering.adapters.openai_usage import bill, usage_counts
from sluice.metering.adapters.reading import (
    checked_objects,
    objects,
    section,
    word,
    word_if_any,
)
from sluice.metering.adapters.tokens import server_tools

# What OTel prescribes for an error without a code of its own.
OTHER_ERROR = "_OTHER"

_OPERATIONS = {"list": "embeddings", "text_completion": "text_completion"}


def from_openai_chat(response: Mapping[str, Any] | Sequence[Mapping[str, Any]],
                     context: CallContext) -> dict[str, Any]:  # fmt: skip
    """The event of a response, an error body, a stream's last chunk, or all chunks of a stream.

    Raises AdapterError; missing_usage where a stream was asked for without include_usage.
    """
    if not isinstance(response, Mapping):
        response = _joined(response)
        context = context if context.stream is not None else replace(context, stream=True)
    usage = section(response, "usage")
    operation = _OPERATIONS.get(str(response.get("object")), "chat")
    generates = operation != "embeddings"
    provider = context.provider_name or "openai"
    return call_event(
        context.beside(service_tier=word_if_any(response, "service_tier")),
        tokens=usage_counts(usage, generates=generates),
        provider_name=provider,
        response_model=word(response, "model"),
        operation_name=operation,
        event_type="inference" if generates else "embedding",
        error_type=error_type_of(response),
        finish_reason=_finish_reason(response),
        server_tool_requests=server_tools(usage),
        **bill(usage, provider),
    )


def error_type_of(response: Mapping[str, Any]) -> str | None:
    """Code or type of a failed call, never its message; None where it did not fail."""
    if not response.get("error"):
        return None
    error = response["error"]
    found = word_if_any(error, "code", "type") if isinstance(error, Mapping) else None
    return found or OTHER_ERROR


def _finish_reason(response: Mapping[str, Any]) -> str | None:
    reasons = [word_if_any(choice, "finish_reason") for choice in objects(response, "choices")]
    return ",".join(dict.fromkeys(filter(None, reasons))) or None


def _joined(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One response of a stream's chunks, without their content; what comes later is newer."""
    whole: dict[str, Any] = {"choices": []}
    for chunk in checked_objects("the stream", chunks):
        for name in ("object", "model", "service_tier", "usage", "error"):
            if chunk.get(name) is not None:
                whole[name] = chunk[name]
        whole["choices"] += objects(chunk, "choices")
    return whole
