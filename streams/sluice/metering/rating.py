"""What one usage event cost: disjoint token classes times the rates in force.

An assumption (a rate that stands in for a missing one, a tier or unit that the book lacks) is named
in the result; an event whose input or output has no rate at all is unpriced, never free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sluice.metering.prices import PriceBook, names_of
from sluice.metering.rates import RATE_CLASSES, STANDARD, PriceEntry
from sluice.money import INT64_MAX, checked_sum

# event field `service_tier` (lower case) -> service tier of the book
_SERVICE_TIERS = {
    "": STANDARD, "default": STANDARD, "standard": STANDARD, "auto": STANDARD,
    "on_demand": STANDARD, "on_demand_priority": "priority", "on_demand_flex": "flex",
    "batches": "batch",
}  # fmt: skip
_PLAIN_TIERS = frozenset({None, "", "default", "standard"})
_REQUEST_TYPES = frozenset({"inference", "embedding"})
# Of these the provider never saw a request, so it bills no fee for one.
_NEVER_RAN = frozenset({"rejected", "throttled", "queued_out"})
_FREE_TYPES = frozenset({"admission", "gpu_adjustment"})
_WRITE_CLASSES = {"300": "cache_write", "3600": "cache_write_3600", "43200": "cache_write_43200"}
# key of `tokens_by_modality` -> the class it is part of, its own class
_MODALITIES = {
    f"{name.removesuffix(f'_{modality}')}.{modality}": (name.removesuffix(f"_{modality}"), name)
    for name in RATE_CLASSES
    for modality in ("audio", "image", "video")
    if name.endswith(f"_{modality}")
}
_UNRATED = ("server_tool_requests", "units")


class Cost(NamedTuple):
    """Cost of one event in pico-USD, who says so, and what had to be assumed for it."""

    cost_pusd: int
    cost_source: str  # "provider": billed; "estimate": from the price book
    price_book_version: str | None
    assumptions: tuple[str, ...] = ()


def cost(book: PriceBook | None, event: Mapping[str, Any]) -> Cost | None:
    """Cost of a UsageEvent, or None where the book has no price for it.

    What the provider billed wins over the book. The price is that of `occurred_at`, the model
    `response_model`, else `request_model`; for the order of look-ups see PriceBook.find. Admission
    and GPU records cost nothing. A correction costs the delta that it carries; without one, its
    token deltas and no request fee.

    Raises OverflowError where the cost leaves 64 bits.
    """
    version = None if book is None else book.version
    event_type = event["event_type"]
    if event_type in _FREE_TYPES:
        return Cost(0, "estimate", version)
    billed = event.get("cost_pusd")
    if billed is not None and event_type == "correction":
        # Its delta was worked out against what the original cost, and by the book that it names.
        said_by = event["cost_source"] or "estimate"
        return Cost(checked_sum(billed, 0), said_by, event["price_book_version"])
    if billed is not None and event.get("cost_source") == "provider":
        return Cost(checked_sum(billed, 0), "provider", version)
    if event_type == "tool" and not (event["input_tokens"] or event["output_tokens"]):
        return Cost(0, "estimate", version, ("tool call not priced",))
    if book is None:
        return None
    provider = event["provider_name"]
    model = event.get("response_model") or event["request_model"]
    entry = book.find(model, provider, event["occurred_at"])
    if entry is None:
        return None
    own = entry.provider is None or entry.provider == provider
    if own and (total := _plain(entry, event)) is not None:
        return Cost(checked_sum(total, 0), "estimate", book.version)
    return _rated(entry, event, book.version)


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


def _plain(entry: PriceEntry, event: Mapping[str, Any]) -> int | None:
    """Cost where the entry states every rate needed and nothing special applies, else None."""
    total_input: int = event["input_tokens"]
    if (
        total_input > entry.lowest_threshold
        or event.get("service_tier") not in _PLAIN_TIERS
        or event["event_type"] not in _REQUEST_TYPES
        or event.get("cache_write_by_ttl")
        or event.get("tokens_by_modality")
        or event.get("units")
        or event.get("server_tool_requests")
    ):
        return None
    input_rate, read_rate, write_rate, output_rate, reasoning_rate, fee = entry.plain
    read, written = event["cache_read_input_tokens"], event["cache_write_input_tokens"]
    output, reasoning = event["output_tokens"], event["reasoning_output_tokens"]
    if fee or input_rate is None or output_rate is None or reasoning_rate is None:
        return None
    total: int = (total_input - read - written) * input_rate + (output - reasoning) * output_rate
    if read:
        if read_rate is None:
            return None
        total += read * read_rate
    if written:
        if write_rate is None:
            return None
        total += written * write_rate
    total += reasoning * reasoning_rate
    return total


def _rated(entry: PriceEntry, event: Mapping[str, Any], version: str) -> Cost | None:
    counts, found = token_classes(event)
    ran = event["event_type"] in _REQUEST_TYPES and event.get("outcome") not in _NEVER_RAN
    counts["request"] = int(ran)
    asked = (event.get("service_tier") or "").lower()
    service_tier = _SERVICE_TIERS.get(asked, asked)
    card = entry.card(service_tier, event["input_tokens"])
    assumptions = [*_assumed_for(entry, service_tier, event), *found]
    total = 0
    for name, count in counts.items():
        if not count or (name == "request" and name not in card.rates_pusd):
            continue
        if name not in card.rates_pusd:
            return None
        total += count * card.rates_pusd[name]
        if name in card.assumed:
            assumptions.append(card.assumed[name])
    return Cost(checked_sum(total, 0), "estimate", version, tuple(assumptions))


def _assumed_for(entry: PriceEntry, service_tier: str, event: Mapping[str, Any]) -> Iterable[str]:
    provider = event["provider_name"]
    if entry.provider is not None and provider not in names_of(entry.provider):
        yield f"the price of {entry.provider} for provider {provider!r}"
    if not entry.has_service_tier(service_tier):
        yield f"the standard price for service tier {service_tier!r}"
    if event["event_type"] == "correction" and entry.lowest_threshold < INT64_MAX:
        yield "the context length of a correction by its own deltas"
    yield from (f"{name} not priced" for name in _UNRATED if event.get(name))


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
