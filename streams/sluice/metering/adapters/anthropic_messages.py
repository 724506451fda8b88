"""Anthropic's Messages API, whose input count leaves out what its cache read and wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sluice.metering.adapters.context import CallContext, call_event
from sluice.metering.adapters.openai_chat import error_type_of
from sluice.metering.adapters.reading import (
    AdapterError,
    Amount,
    agreed,
    amount,
    checked_objects,
    needed,
    objects,
    section,
    word,
    word_if_any,
)
from sluice.metering.adapters.tokens import (
    Across,
    TokenCounts,
    by_ttl,
    disjoint,
    server_tools,
)

_NOWHERE = frozenset({None, "global", "not_available"})


def from_anthropic_messages(response: Mapping[str, Any] | Sequence[Mapping[str, Any]],
                            context: CallContext) -> dict[str, Any]:  # fmt: skip
    """The event of a message, an error body, or all events of a stream.

    A stream that broke off states its input and the output so far; where the context says how it
    ended (`outcome`) or the stream does, its counts stand with usage_source "estimated". Otherwise
    AdapterError "unfinished".
    """
    if not isinstance(response, Mapping):
        response, finished = _merged(response)
        context = context if context.stream is not None else replace(context, stream=True)
        context = context if finished else _broken_off(context, response)
    usage = section(response, "usage")
    geo = word_if_any(usage, "inference_geo")
    return call_event(
        context.beside(
            service_tier=_service_tier(usage), region=None if geo in _NOWHERE else geo
        ),
        tokens=message_counts(usage),
        provider_name="anthropic",
        response_model=word(response, "model"),
        error_type=error_type_of(response),
        finish_reason=word_if_any(response, "stop_reason"),
        server_tool_requests=server_tools(usage),
    )  # fmt: skip


def message_counts(usage: Mapping[str, Any]) -> TokenCounts | None:
    """Classes of a usage object, None where it is empty.

    The counts leave out iterations that compacted the context; those are added. Raises AdapterError
    where an adviser model took part, whose tokens have another price, or counts are at odds.
    """
    if not usage:
        return None
    parts = [_counts(usage), *map(_counts, _compactions(usage))]
    if len(parts) == 1:
        return parts[0]
    return TokenCounts(
        input_uncached=sum(part.input_uncached for part in parts),
        cache_read=sum(part.cache_read for part in parts),
        cache_write=sum(part.cache_write for part in parts),
        output_text=sum(part.output_text for part in parts),
        reasoning=sum(part.reasoning for part in parts),
        write_by_ttl=tuple(item for part in parts for item in part.write_by_ttl),
    )


def _counts(usage: Mapping[str, Any]) -> TokenCounts:
    write = _written(usage)
    thinking = amount(section(usage, "output_tokens_details"), "thinking_tokens")
    return disjoint(
        uncached=needed(usage, "input_tokens"),
        read=agreed("cache_read_input_tokens", [amount(usage, "cache_read_input_tokens")]),
        write=write,
        output=needed(usage, "output_tokens"),
        reasoning=agreed("thinking_tokens", [thinking]),
        across=Across(write_by_ttl=by_ttl(write, section(usage, "cache_creation"))),
    )


def _written(usage: Mapping[str, Any]) -> Amount:
    created = section(usage, "cache_creation")
    parts = [found for name in created if (found := amount(created, name)) is not None]
    total = Amount("cache_creation", sum(part.value for part in parts))
    return amount(usage, "cache_creation_input_tokens") or total


def _compactions(usage: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    iterations = objects(usage, "iterations")
    kinds = [str(item.get("type")) for item in iterations]
    if "advisor_message" in kinds:
        raise AdapterError(
            "another_model",
            f"{kinds.count('advisor_message')} usage.iterations are of an adviser model: take them "
            "out and send each as an event of its own model",
        )
    return (item for item, kind in zip(iterations, kinds, strict=True) if kind == "compaction")


def _service_tier(usage: Mapping[str, Any]) -> str | None:
    """The tier; fast mode has a price of its own and so counts as one."""
    tier = word_if_any(usage, "service_tier")
    return "fast" if usage.get("speed") == "fast" and tier in {None, "standard"} else tier


def _merged(events: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
    """The message of a stream's events without its content, and whether its usage is final."""
    whole: dict[str, Any] = {}
    finished = False
    for event in checked_objects("the stream", events):
        kind = event.get("type")
        if kind == "message_start":
            start = section(event, "message")
            whole |= {"model": start.get("model"), "usage": dict(section(start, "usage"))}
        elif kind == "message_delta":
            newer = {k: v for k, v in section(event, "usage").items() if v is not None}
            whole["usage"] = _newer(whole.get("usage", {}), newer)
            whole["stop_reason"] = section(event, "delta").get("stop_reason")
            finished = finished or "output_tokens" in newer
        elif kind == "error":
            whole["error"] = event.get("error")
    return whole, finished


def _newer(usage: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Usage after a delta, whose counts are cumulative; writes that grew lost their lifetimes."""
    newer = {**usage, **delta}
    written = "cache_creation_input_tokens"
    if newer.get(written) != usage.get(written) and "cache_creation" not in delta:
        newer.pop("cache_creation", None)
    return newer


def _broken_off(context: CallContext, message: Mapping[str, Any]) -> CallContext:
    if not message.get("error") and context.outcome in {None, "ok"}:
        raise AdapterError(
            "unfinished",
            "the stream has no message_delta with usage: say in `outcome` how it ended",
        )
    return replace(context, usage_source="estimated") if message.get("usage") else context
