"""OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sluice.metering.adapters.context import CallContext, call_event
from sluice.metering.adapters.openai_chat import OTHER_ERROR, error_type_of
from sluice.metering.adapters.openai_usage import RESPONSES, bill, usage_counts
from sluice.metering.adapters.reading import (
    AdapterError,
    checked_objects,
    objects,
    quantities,
    section,
    word,
    word_if_any,
)

# Output items that are calls of tools OpenAI runs; functions and shells are run by the client.
_SERVER_TOOLS = {
    "web_search_call": "web_search", "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter", "image_generation_call": "image_generation",
    "mcp_call": "mcp",
}  # fmt: skip
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_OPEN = frozenset({"queued", "in_progress"})


def from_openai_responses(response: Mapping[str, Any] | Sequence[Mapping[str, Any]],
                          context: CallContext) -> dict[str, Any]:  # fmt: skip
    """The event of a response, an error body, a stream's last event, or all events of a stream.

    Web searches count as the provider bills them: opening and searching a found page is free.
    Raises AdapterError; unfinished where the response is still being made.
    """
    if not isinstance(response, Mapping):
        response = _last(response)
        context = context if context.stream is not None else replace(context, stream=True)
    response = section(response, "response") or response
    status = word_if_any(response, "status")
    if status in _OPEN:
        raise AdapterError("unfinished", f"status {status}: adapt the response when it has ended")
    if status == "cancelled" and context.outcome is None:
        context = replace(context, outcome="cancelled")
    usage = section(response, "usage")
    provider = context.provider_name or "openai"
    return call_event(
        context.beside(
            service_tier=word_if_any(response, "service_tier"),
            conversation_id=word_if_any(section(response, "conversation"), "id"),
        ),
        tokens=usage_counts(usage, RESPONSES),
        provider_name=provider,
        response_model=word(response, "model"),
        error_type=_error_type(response, status),
        finish_reason=word_if_any(section(response, "incomplete_details"), "reason") or status,
        server_tool_requests=quantities((tool, 1) for tool in _calls(response)),
        **bill(usage, provider),
    )


def _error_type(response: Mapping[str, Any], status: str | None) -> str | None:
    if response.get("type") == "error":  # the event that ends a broken stream
        return word_if_any(response, "code") or OTHER_ERROR
    return error_type_of(response) or (OTHER_ERROR if status == "failed" else None)


def _calls(response: Mapping[str, Any]) -> Iterable[str]:
    for item in objects(response, "output"):
        tool = _SERVER_TOOLS.get(str(item.get("type")))
        if tool is not None and section(item, "action").get("type", "search") == "search":
            yield tool


def _last(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    known = checked_objects("the stream", events)
    ends = [event for event in known if word_if_any(event, "type") in _ENDS]
    if not ends:
        raise AdapterError("unfinished", f"the stream has none of {', '.join(sorted(_ENDS))}")
    return ends[-1]
