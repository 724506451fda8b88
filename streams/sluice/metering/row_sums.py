"""What a window row adds up, event by event.

`gross_pusd` sums the absolute amounts of everything that went into a row. While it fits 64 bits,
every sum of money in the row does too, whatever corrections take away again: one check guards all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sluice.metering import histogram
from sluice.metering.causes import CAUSES, NOTHING, Split
from sluice.metering.histogram import Buckets
from sluice.metering.labels import Label
from sluice.metering.quantities import REQUEST_TYPES, TOKENS
from sluice.metering.rating import Part
from sluice.money import checked_sum

# UsageEvent fields that a window row adds up as they are; null means "not measured", never 0.
MEASURED = (
    "gpu_us", "energy_mj", "kv_byte_ms", "io_read_bytes", "io_write_bytes", "net_in_bytes",
    "net_out_bytes", "queue_us", "ttft_us", "latency_us",
)  # fmt: skip
# Free texts of producers: one row must stay small enough to be stored and published.
MAX_LABELS = 64
OTHER = "other"
SERVED = frozenset({"ok", "degraded"})

Counts = dict[str, int]
Classes = dict[str, list[int]]  # class -> [quantity, cost in pico-USD]


class WindowSums(msgspec.Struct, array_like=True):
    """What a row adds up; token, money and byte counts are exact integers."""

    events: int = 0
    requests: int = 0
    tokens: list[int] = msgspec.field(default_factory=lambda: [0] * len(TOKENS))
    measured: list[int | None] = msgspec.field(default_factory=lambda: [None] * len(MEASURED))
    cost_pusd: int = 0
    gross_pusd: int = 0
    unpriced: int = 0
    classes: Classes = msgspec.field(default_factory=dict)
    corrections: int = 0
    corrected_pusd: int = 0
    clamped: int = 0
    bands: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])
    overhead: list[int] = msgspec.field(default_factory=lambda: list(NOTHING))
    tail_by_cause: list[int] = msgspec.field(default_factory=lambda: list(NOTHING))
    task_tail_pusd: int | None = None
    outcomes: Counts = msgspec.field(default_factory=dict)
    slo_outcomes: Counts = msgspec.field(default_factory=dict)
    good: int = 0
    rollback_reasons: Counts = msgspec.field(default_factory=dict)
    risk_flags: Counts = msgspec.field(default_factory=dict)
    refused: int = 0
    averted_pusd: int = 0
    latency: Buckets = msgspec.field(default_factory=dict)
    cost: Buckets = msgspec.field(default_factory=dict)
    price_book_version: str | None = None
    baseline_version: str | None = None
    packaged: int = 0
    unlabelled: int = 0
    revision: int = 0
    closed: bool = False
    dirty: bool = False


def add_usage(row: WindowSums, event: Mapping[str, Any], label: Label, *, clamped: bool) -> None:
    """Add a usage event or a correction; OverflowError leaves the row as it was."""
    tokens = [checked_sum(have, event[name]) for have, name in zip(row.tokens, TOKENS, strict=True)]
    measured = [_plus(have, event[name]) for have, name in zip(row.measured, MEASURED, strict=True)]
    classes = [(part, _class_sum(row.classes, part)) for part in label.parts]
    gross = checked_sum(row.gross_pusd, _gross(event, label))
    row.tokens, row.measured, row.gross_pusd = tokens, measured, gross
    for part, quantity in classes:
        row.classes[part.key] = [
            quantity, row.classes.get(part.key, (0, 0))[1] + part.cost_pusd,
        ]  # fmt: skip
    _add_money(row, label)
    row.clamped += clamped
    if event["event_type"] == "correction":
        _correct(row, event, label)
    else:
        _count(row, event, label)


def add_refusals(row: WindowSums, event: Mapping[str, Any]) -> None:
    """Add an admission event; OverflowError leaves the row as it was."""
    averted = checked_sum(row.averted_pusd, event["estimated_cost_pusd"] or 0)
    row.refused = checked_sum(row.refused, refused_requests(event))
    row.averted_pusd = averted


def refused_requests(event: Mapping[str, Any]) -> int:
    """Requests that an admission event reports as refused."""
    if event["outcome"] == "ok":
        return 0
    return sum(unit["value"] for unit in event["units"] if unit["key"] == "requests")


def fields_of(row: WindowSums) -> dict[str, Any]:
    """The sums as fields of a WindowRow."""
    tokens = dict(zip(TOKENS, row.tokens, strict=True))
    cached = tokens["cache_read_input_tokens"] + tokens["cache_write_input_tokens"]
    body, shoulder, tail = row.bands
    return {
        **tokens,
        **dict(zip(MEASURED, row.measured, strict=True)),
        **{name: getattr(row, name) for name in _AS_THEY_ARE},
        **{name: _quantities(getattr(row, name)) for name in _COUNTED},
        "input_uncached_tokens": tokens["input_tokens"] - cached,
        "output_text_tokens": tokens["output_tokens"] - tokens["reasoning_output_tokens"],
        "usage_by_class": [
            {"key": key, "quantity": quantity, "cost_pusd": cost_pusd}
            for key, (quantity, cost_pusd) in sorted(row.classes.items())
        ],
        "body_pusd": body, "shoulder_pusd": shoulder, "tail_pusd": tail,
        "tail_by_cause": _by_cause(row.tail_by_cause),
        "overhead_by_cause": _by_cause(row.overhead),
        "latency_histogram": histogram.to_wire(row.latency),
        "cost_histogram": histogram.to_wire(row.cost),
    }  # fmt: skip


_AS_THEY_ARE = (
    "events", "requests", "cost_pusd", "unpriced", "corrections", "corrected_pusd", "clamped",
    "task_tail_pusd", "good", "refused", "averted_pusd", "price_book_version",
    "baseline_version", "packaged", "unlabelled", "revision",
)  # fmt: skip
_COUNTED = ("outcomes", "slo_outcomes", "rollback_reasons", "risk_flags")


def _quantities(counts: Counts) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in sorted(counts.items())]


def _by_cause(shares: Iterable[int]) -> list[dict[str, Any]]:
    return [{"key": k, "value": v} for k, v in zip(CAUSES, shares, strict=True) if v]


def _gross(event: Mapping[str, Any], label: Label) -> int:
    """A bound of every amount of money that the event adds to or takes from one sum."""
    cost = abs(label.cost_pusd or 0)
    classes = sum(abs(part.cost_pusd) for part in label.parts)
    # A correction takes its original out of one bucket and puts it into another one.
    moved = 2 * abs(event["original_cost_pusd"] or 0) + cost
    return max(classes, moved if event["event_type"] == "correction" else cost)


def _class_sum(classes: Classes, part: Part) -> int:
    return checked_sum(classes.get(part.key, (0, 0))[0], part.quantity)


def _add_money(row: WindowSums, label: Label) -> None:
    row.cost_pusd += label.cost_pusd or 0
    row.bands = _added(row.bands, label.bands)
    row.overhead = _added(row.overhead, label.overhead)
    row.tail_by_cause = _added(row.tail_by_cause, label.tail_by_cause)


def _added(sums: list[int], more: Split | tuple[int, ...]) -> list[int]:
    return [have + new for have, new in zip(sums, more, strict=True)]


def _count(row: WindowSums, event: Mapping[str, Any], label: Label) -> None:
    row.events += 1
    row.requests += event["event_type"] in REQUEST_TYPES
    row.unpriced += label.cost_pusd is None
    _one_more(row.outcomes, event["outcome"])
    _one_more(row.slo_outcomes, event["slo_outcome"])
    _one_more(row.rollback_reasons, event["rollback_reason"])
    for flag in event["risk_flags"]:
        _one_more(row.risk_flags, flag)
    row.good += is_good(event)
    cost = label.cost_pusd
    if event["latency_us"] is not None:
        histogram.add(row.latency, event["latency_us"], cost or 0)
    if cost is not None:
        histogram.add(row.cost, cost, cost)
        row.packaged += label.thresholds is not None and label.thresholds.packaged
        row.unlabelled += label.thresholds is None
    row.price_book_version = label.price_book_version
    row.baseline_version = label.baseline_version


def is_good(event: Mapping[str, Any]) -> bool:
    """Whether an event served its user, as its SLO says, else its outcome."""
    if event["slo_outcome"] is not None:
        return bool(event["slo_outcome"] == "good")
    return event["outcome"] in SERVED


def _correct(row: WindowSums, event: Mapping[str, Any], label: Label) -> None:
    """Move the original's cost in the histogram from what it was to what it is.

    Its latency is not known: what a correction says of latency is a signed change like the rest.
    """
    row.corrections += 1
    delta, before = label.cost_pusd, event["original_cost_pusd"]
    if delta is None:
        return
    row.corrected_pusd += delta
    if before is None:
        row.unpriced -= 1
    else:
        histogram.add(row.cost, max(0, before), -before, count=-1)
    after = (before or 0) + delta
    histogram.add(row.cost, max(0, after), after)


def _one_more(counts: Counts, key: str | None) -> None:
    """Count a label; a row keeps MAX_LABELS different ones, what comes beyond counts as OTHER."""
    if key is None:
        return
    if key not in counts and len(counts) >= MAX_LABELS:
        key = OTHER
    counts[key] = counts.get(key, 0) + 1


def _plus(have: int | None, more: int | None) -> int | None:
    return have if more is None else checked_sum(have or 0, more)
