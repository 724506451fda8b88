"""Whether a decoded usage event makes sense; what does not goes to the dead-letter topic.

The bounds keep one event from doing harm to others: sums of honest events stay far from 64 bits,
and no list or text grows into a row that nobody can hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from operator import itemgetter
from reprlib import repr as short
from typing import Any

from sluice.errors import WireError
from sluice.metering.quantities import CLASS_LISTS, TOKENS
from sluice.wire.codec import END_MARK
from sluice.wire.schema import schema

EVENT_TYPES = frozenset(
    {"inference", "embedding", "tool", "admission", "gpu_adjustment", "correction"}
)
DAY_US = 86_400_000_000
# A month's bill may still be corrected; a clock may be wrong by a time zone.
MAX_AGE_US = 35 * DAY_US
MAX_AHEAD_US = DAY_US
# Of every text: id, name, label, key or value, in UTF-8.
MAX_ID_BYTES = 256
MAX_ATTRIBUTES = 16
# Of every other list of amounts or labels.
MAX_LIST_ITEMS = 64
# Of every count, in its own unit: 10^15 tokens, bytes (1 PB), mJ, or µs (31 years).
MAX_COUNT = 10**15
# 80 GB of KV cache for an hour are 3 * 10^17 byte-ms.
MAX_BYTE_MS = 10**18
MAX_COST_PUSD = 9 * 10**18

REQUIRED = ("event_id", "source", "source_epoch")
_TOKENS = (*TOKENS, "rejected_prediction_tokens", "recomputed_input_tokens")
_COUNTS = (*_TOKENS, "queue_us", "ttft_us", "latency_us", "gpu_us", "energy_mj",
           "kv_bytes_per_token", "kv_peak_tokens", "io_read_bytes", "io_write_bytes",
           "net_in_bytes", "net_out_bytes", "max_output_tokens")  # fmt: skip
LIMITS = {
    **dict.fromkeys(_COUNTS, MAX_COUNT),
    "kv_byte_ms": MAX_BYTE_MS, "cost_pusd": MAX_COST_PUSD, "estimated_cost_pusd": MAX_COST_PUSD,
    "original_cost_pusd": MAX_COST_PUSD, "baseline_q50_pusd": MAX_COST_PUSD,
    "baseline_q95_pusd": MAX_COST_PUSD,
}  # fmt: skip
ORDINALS = (("source_seq", 1), ("attempt", 0), ("step", 0), ("depth", 0))
LISTS = (*CLASS_LISTS, "usage_by_class", "risk_flags", "compliance", "attributes")
TIMES = ("started_at", "scheduled_at", "first_token_at", "occurred_at")
# A character has at most four bytes: below this, bytes need not be counted.
_SURELY_SHORT = MAX_ID_BYTES // 4


def check_usage(event: Mapping[str, Any], key: bytes | None, broker_time: int) -> None:
    """Raise WireError where `event`, arrived under `key` at `broker_time` (µs), breaks a rule.

    Reasons: missing_tenant, key_mismatch, missing_field, unknown_event_type, end_mark,
    text_too_long, too_many_items, too_many_attributes, negative_value, value_too_large,
    token_subset, class_sum, time_order, absurd_time.
    """
    _check_identity(event, key)
    _check_kind(event)
    _check_texts(event)
    _check_lists(event)
    _check_amounts(event)
    if event["event_type"] == "correction":
        _check_classes(event)
    else:
        _check_subsets(event)
    _check_times(event, broker_time)


def _check_identity(event: Mapping[str, Any], key: bytes | None) -> None:
    if not event["tenant_id"]:
        raise WireError("missing_tenant", "tenant_id is empty")
    if key != event["tenant_id"].encode():
        raise WireError("key_mismatch", f"key {short(key)}, tenant_id {short(event['tenant_id'])}")
    for name in REQUIRED:
        if not event[name]:
            raise WireError("missing_field", f"{name} is empty")


def _check_kind(event: Mapping[str, Any]) -> None:
    if event["event_type"] not in EVENT_TYPES:
        raise WireError("unknown_event_type", f"event_type {short(event['event_type'])}")
    if event["event_type"] == "correction" and not event["corrects_event_id"]:
        raise WireError("missing_field", "a correction without corrects_event_id")
    if event["end_mark"] != END_MARK:
        raise WireError("end_mark", f"{event['end_mark']} instead of {END_MARK}")
    for name, lowest in ORDINALS:
        if event[name] is not None and event[name] < lowest:
            raise WireError("negative_value", f"{name} {event[name]}, at least {lowest}")


def _check_texts(event: Mapping[str, Any]) -> None:
    names, pick = text_fields()
    longest = max(map(len, filter(None, pick(event))))
    if longest > _SURELY_SHORT:
        for name in names:
            _check_length(name, event[name] or "")


def _check_lists(event: Mapping[str, Any]) -> None:
    attributes = event["attributes"]
    if len(attributes) > MAX_ATTRIBUTES:
        raise WireError("too_many_attributes", f"{len(attributes)}, at most {MAX_ATTRIBUTES}")
    for name in LISTS:
        items = event[name]
        if items:
            _check_items(name, items)


def _check_items(name: str, items: Sequence[Any]) -> None:
    if len(items) > MAX_LIST_ITEMS:
        raise WireError("too_many_items", f"{len(items)} in {name}, at most {MAX_LIST_ITEMS}")
    for item in items:
        texts = (item,) if isinstance(item, str) else item.values()
        for text in texts:
            if isinstance(text, str):
                _check_length(name, text)


def _check_length(name: str, text: str) -> None:
    size = len(text.encode())
    if size > MAX_ID_BYTES:
        raise WireError("text_too_long", f"{name} has {size} bytes, at most {MAX_ID_BYTES}")


def _check_amounts(event: Mapping[str, Any]) -> None:
    signed = event["event_type"] == "correction"
    for name, limit in LIMITS.items():
        value = event[name]
        if value:
            _check_amount(name, value, limit, signed=signed)
    for name in CLASS_LISTS:
        for amount in event[name]:
            _check_amount(name, amount["value"], MAX_COUNT, signed=signed)


def _check_amount(name: str, value: int, limit: int, *, signed: bool) -> None:
    if value < 0 and not signed:
        raise WireError("negative_value", f"{name} {value} outside of a correction")
    if abs(value) > limit:
        raise WireError("value_too_large", f"{name} {value}, at most {limit}")


def _check_subsets(event: Mapping[str, Any]) -> None:
    cached = event["cache_read_input_tokens"] + event["cache_write_input_tokens"]
    by_ttl = sum(amount["value"] for amount in event["cache_write_by_ttl"])
    output = event["output_tokens"]
    for part, whole, what in (
        (cached, event["input_tokens"], "cache_read + cache_write above input_tokens"),
        (by_ttl, event["cache_write_input_tokens"], "cache_write_by_ttl above cache_write"),
        (event["reasoning_output_tokens"], output, "reasoning above output_tokens"),
        (event["rejected_prediction_tokens"], output, "rejected_prediction above output_tokens"),
        (event["recomputed_input_tokens"], event["input_tokens"], "recomputed above input_tokens"),
    ):
        if part > whole:
            raise WireError("token_subset", f"{what}: {part} > {whole}")


def _check_classes(event: Mapping[str, Any]) -> None:
    """A correction's classes explain its cost, and its thresholds are in order."""
    classes = event["usage_by_class"]
    for part in classes:
        _check_amount("usage_by_class", part["quantity"], MAX_BYTE_MS, signed=True)
        _check_amount("usage_by_class", part["cost_pusd"], MAX_COST_PUSD, signed=True)
    explained = sum(part["cost_pusd"] for part in classes)
    if classes and explained != event["cost_pusd"]:
        raise WireError("class_sum", f"classes cost {explained}, cost_pusd {event['cost_pusd']}")
    q50, q95 = event["baseline_q50_pusd"], event["baseline_q95_pusd"]
    if q50 is not None and q95 is not None and not 0 <= q50 <= q95:
        raise WireError("value_too_large", f"baseline_q50_pusd {q50} above baseline_q95_pusd {q95}")


def _check_times(event: Mapping[str, Any], broker_time: int) -> None:
    known = [(name, event[name]) for name in TIMES if event[name] is not None]
    for (before, earlier), (after, later) in pairwise(known):
        if earlier > later:
            raise WireError("time_order", f"{before} {earlier} after {after} {later}")
    for name in ("started_at", "occurred_at"):
        age = broker_time - event[name]
        if not -MAX_AHEAD_US <= age <= MAX_AGE_US:
            raise WireError("absurd_time", f"{name} {event[name]} at broker time {broker_time}")


@cache
def text_fields() -> tuple[tuple[str, ...], itemgetter[str]]:
    """Names of all text fields (of the schema, so that a new one is bounded too), and a picker."""
    fields = schema("UsageEvent")["fields"]
    names = tuple(f["name"] for f in fields if f["type"] in ("string", ["null", "string"]))
    return names, itemgetter(*names)
