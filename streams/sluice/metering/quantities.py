"""How much of each priced class a usage event has: disjoint, nothing counted twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sluice.metering.classes import (
    MEASURED_CLASSES,
    SERVER_TOOL_CLASSES,
    TOKEN_CLASSES,
    UNIT_CLASSES,
)
from sluice.wire.outcomes import NEVER_RAN

REQUEST_TYPES = frozenset({"inference", "embedding"})
# UsageEvent fields that prices and window rows count; cached and reasoning are parts of others.
TOKENS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens",
    "reasoning_output_tokens",
)  # fmt: skip
# UsageEvent fields that a window row adds up as they are; null means "not measured", never 0.
MEASURED = (
    "gpu_us", "energy_mj", "kv_byte_ms", "io_read_bytes", "io_write_bytes", "net_in_bytes",
    "net_out_bytes", "queue_us", "ttft_us", "latency_us",
)  # fmt: skip
# Outcomes of events that served their users.
SERVED = frozenset({"ok", "degraded"})
# UsageEvent fields that count by class, of which one event may have several.
CLASS_LISTS = ("cache_write_by_ttl", "tokens_by_modality", "server_tool_requests", "units")
_WRITE_CLASSES = {"300": "cache_write", "3600": "cache_write_3600", "43200": "cache_write_43200"}
# key of `tokens_by_modality` -> the class it is part of, its own class
_MODALITIES = {
    f"{name.removesuffix(f'_{modality}')}.{modality}": (name.removesuffix(f"_{modality}"), name)
    for name in TOKEN_CLASSES
    for modality in ("audio", "image", "video")
    if name.endswith(f"_{modality}")
}
_LISTS = (("units", frozenset(UNIT_CLASSES)),
          ("server_tool_requests", frozenset(SERVER_TOOL_CLASSES)))  # fmt: skip


def token_classes(event: Mapping[str, Any]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Disjoint token counts per rate class, and what had to be assumed.

    The input classes add up to `input_tokens`, the output classes to `output_tokens`. Tokens of a
    modality count as uncached unless a key "cache_read.<modality>" or "cache_write.<modality>"
    says otherwise.
    """
    read, written = event["cache_read_input_tokens"], event["cache_write_input_tokens"]
    reasoning = event["reasoning_output_tokens"]
    counts = {
        "input": event["input_tokens"] - read - written,
        "cache_read": read,
        "cache_write": written,
        "output": event["output_tokens"] - reasoning,
        "reasoning": reasoning,
    }
    assumptions = [*_split_writes(counts, event.get("cache_write_by_ttl") or ()),
                   *_split_modalities(counts, event.get("tokens_by_modality") or ())]  # fmt: skip
    return counts, tuple(assumptions)


def counted_classes(event: Mapping[str, Any]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Tokens, units and server tools per rate class, and what had to be assumed or left out."""
    counts, assumptions = token_classes(event)
    for name, known in _LISTS:
        if amounts := event.get(name):
            assumptions += tuple(_add_known(counts, name, amounts, known))
    return counts, assumptions


def measured_classes(event: Mapping[str, Any]) -> dict[str, int]:
    """GPU time and KV-cache footprint; what was not measured is not there."""
    return {name: event[name] for name in MEASURED_CLASSES if event.get(name) is not None}


def ran(event: Mapping[str, Any], event_types: Iterable[str] = REQUEST_TYPES) -> bool:
    """Whether an event of one of these types stands for a call that reached its provider."""
    return event["event_type"] in event_types and event.get("outcome") not in NEVER_RAN


def refused_requests(event: Mapping[str, Any]) -> int:
    """Requests that an admission event reports as refused."""
    if event["outcome"] == "ok":
        return 0
    return sum(unit["value"] for unit in event["units"] if unit["key"] == "requests")


def _add_known(
    counts: dict[str, int], field: str, amounts: Iterable[Mapping[str, Any]], known: frozenset[str]
) -> Iterable[str]:
    for name, amount in ((item["key"], item["value"]) for item in amounts):
        if name in known:
            counts[name] = counts.get(name, 0) + amount
        elif amount:
            yield f"{field} {name} not priced"


def _split_writes(counts: dict[str, int], by_ttl: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for ttl, tokens in ((item["key"], item["value"]) for item in by_ttl):
        if ttl not in _WRITE_CLASSES:
            yield f"cache writes for {ttl} s at the default rate"
        elif not _move(counts, "cache_write", _WRITE_CLASSES[ttl], tokens):
            yield "cache_write_by_ttl beyond cache_write_input_tokens left out"


def _split_modalities(counts: dict[str, int], stated: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    by_key = {item["key"]: item["value"] for item in stated if item["key"] in _MODALITIES}
    for key, tokens in by_key.items():
        source, target = _MODALITIES[key]
        modality = key.partition(".")[2]
        cached = by_key.get(f"cache_read.{modality}", 0) + by_key.get(f"cache_write.{modality}", 0)
        fresh = tokens - cached if source == "input" else tokens
        if not _move(counts, source, target, fresh):
            yield f"{key} beyond the tokens of its class left out"


def _move(counts: dict[str, int], source: str, target: str, tokens: int) -> bool:
    """Move tokens between classes, at most what is there; whether all were moved."""
    there = counts[source]
    moved = min(tokens, max(there, 0)) if tokens > 0 else max(tokens, min(there, 0))
    counts[source] -= moved
    counts[target] = counts.get(target, 0) + moved
    return moved == tokens
