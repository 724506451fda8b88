"""What an event stands at: the row as it was metered plus every correction made to it since.

A correction is an event of its own with signed deltas. The original never changes, so what stood at
any earlier time can be read again by leaving out what came later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sluice.metering.quantities import CLASS_LISTS
from sluice.money import checked_sum

Row = Mapping[str, Any]
Classes = dict[str, tuple[int, int]]  # class -> (quantity, cost in pico-USD)

UNCLASSIFIED = "unclassified"
BY_HAND = "manual"  # cost_source of a correction that sets a cost instead of deriving it
TOKEN_FIELDS = (
    "input_tokens", "cache_read_input_tokens", "cache_write_input_tokens", "output_tokens",
    "reasoning_output_tokens", "recomputed_input_tokens", "rejected_prediction_tokens",
)  # fmt: skip
# Who, where, what and when: carried over as it is, so that a correction falls into the same sums.
_CARRIED = (
    "occurred_at", "started_at", "scheduled_at", "first_token_at", "timing_quality", "tenant_id",
    "project_id", "api_key_hash", "end_user_hash", "conversation_id", "task_id", "parent_event_id",
    "agent_name", "workflow_name", "attempt", "attempt_kind", "step", "depth", "trace_id",
    "span_id", "operation_name", "provider_name", "request_model", "response_model",
    "deployment_id", "engine_replica_id", "region", "pool", "service_tier", "stream", "priority",
    "tool_name", "tool_type", "tool_call_id", "tool_server", "tool_writes", "usage_source",
    "decision_id", "plan_id", "policy_version", "outcome", "slo_outcome", "rollback_reason",
    "error_type", "finish_reason", "compliance", "baseline_q50_pusd", "baseline_q95_pusd",
)  # fmt: skip


class Standing(NamedTuple):
    """The original with the amounts that hold now; `net_pusd` is null while it has no price."""

    original: Row
    event: Row  # the original with its net tokens and lists
    net_pusd: int | None
    classes: Classes
    corrections: int
    by_hand: bool


class Change(NamedTuple):
    """What a correction is to bring about: the amounts that shall hold, and why."""

    cost_pusd: int | None
    classes: Classes
    price_book_version: str | None
    cost_source: str
    reason: str
    event: Row | None = None  # with the tokens and lists that shall hold; None: as they are


def standing(rows: Sequence[Row]) -> Standing | None:
    """Fold an original and its corrections; None where the original is not among the rows.

    Raises OverflowError where a sum leaves 64 bits.
    """
    original = next((row for row in rows if row["event_type"] != "correction"), None)
    if original is None:
        return None
    corrections = [row for row in rows if row is not original]
    net = original["cost_pusd"]
    for row in corrections:
        if row["cost_pusd"] is not None:
            net = checked_sum(net or 0, row["cost_pusd"])
    event = _net_event(original, corrections) if corrections else original
    classes = explained(net, (part for row in rows for part in row["usage_by_class"]))
    by_hand = any(row["cost_source"] == BY_HAND for row in corrections)
    return Standing(original, event, net, classes, len(corrections), by_hand)


def explained(cost_pusd: int | None, parts: Iterable[Mapping[str, Any]]) -> Classes:
    """Sums per class; what they leave of the cost is `unclassified`."""
    sums: Classes = {}
    for part in parts:
        quantity, cost = sums.get(part["key"], (0, 0))
        sums[part["key"]] = (quantity + part["quantity"], cost + part["cost_pusd"])
    rest = (cost_pusd or 0) - sum(cost for _, cost in sums.values())
    if rest:
        quantity, cost = sums.get(UNCLASSIFIED, (0, 0))
        sums[UNCLASSIFIED] = (quantity, cost + rest)
    return sums


def correction(stands: Standing, change: Change) -> dict[str, Any]:
    """The UsageEvent that takes an event from where it stands to where it shall stand.

    Its id follows from the original, the book and what stood before: the same step made twice is
    the same event. What was measured once (times, bytes, energy) and what was reserved is left out.
    """
    wanted = change.event or stands.event
    delta = None if change.cost_pusd is None else change.cost_pusd - (stands.net_pusd or 0)
    return {
        **{name: stands.original[name] for name in _CARRIED},
        "event_id": _identity(stands, change.price_book_version),
        "event_type": "correction",
        "corrects_event_id": stands.original["event_id"],
        **{name: wanted[name] - stands.event[name] for name in TOKEN_FIELDS},
        **{name: _list_delta(stands.event[name], wanted[name]) for name in CLASS_LISTS},
        "cost_pusd": delta,
        "cost_source": change.cost_source,
        "price_book_version": change.price_book_version,
        "usage_by_class": _class_delta(stands.classes, change.classes),
        "original_cost_pusd": stands.net_pusd,
        "attributes": [{"key": "reason", "value": change.reason}],
    }


def _net_event(original: Row, corrections: Iterable[Row]) -> Row:
    rows = [original, *corrections]
    sums = {name: sum(row[name] for row in rows) for name in TOKEN_FIELDS}
    lists = {name: _summed(item for row in rows for item in row[name]) for name in CLASS_LISTS}
    return {**original, **sums, **lists}


def _summed(items: Iterable[Mapping[str, Any]], sign: int = 1) -> list[dict[str, Any]]:
    sums: dict[str, int] = {}
    for item in items:
        sums[item["key"]] = sums.get(item["key"], 0) + sign * item["value"]
    return [{"key": key, "value": value} for key, value in sums.items() if value]


def _list_delta(before: Iterable[Row], after: Iterable[Row]) -> list[dict[str, Any]]:
    return _summed([*after, *_summed(before, -1)])


def _class_delta(before: Classes, after: Classes) -> list[dict[str, Any]]:
    parts = []
    for key in sorted(before.keys() | after.keys()):
        (quantity, cost), (old_quantity, old_cost) = after.get(key, (0, 0)), before.get(key, (0, 0))
        if (quantity, cost) != (old_quantity, old_cost):
            parts.append({"key": key, "quantity": quantity - old_quantity,
                          "cost_pusd": cost - old_cost})  # fmt: skip
    return parts


def _identity(stands: Standing, version: str | None) -> str:
    """A UUID with the layout of version 7: the time of the operation, then a digest."""
    facts = (stands.original["event_id"], version, stands.corrections, stands.net_pusd)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=10).digest()
    rest = int.from_bytes(digest) & ((1 << 74) - 1)
    time_ms = max(stands.original["occurred_at"], 0) // 1000 & ((1 << 48) - 1)
    whole = time_ms << 80 | 0x7 << 76 | (rest >> 62) << 64 | 0b10 << 62 | rest & ((1 << 62) - 1)
    text = f"{whole:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
