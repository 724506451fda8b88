"""Sums per tenant, project, model, tool and minute of event time, as absolute rows.

Time is the partition's highest broker timestamp. A window closes `DELAY_US` after its end and goes
on taking late usage, each time as a new revision, for `lateness_us`; usage that is later still gets
a row in the lane of its arrival date. Rows leave memory only when nothing can change them any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from sluice.money import checked_sum

WINDOW_US = 60_000_000
DELAY_US = 30_000_000
FUTURE_US = 5_000_000
_DAY_US = 86_400_000_000

# UsageEvent fields that a window row adds up as they are; null means "not measured", never 0.
MEASURED = (
    "gpu_us", "energy_mj", "kv_byte_ms", "io_read_bytes", "io_write_bytes", "net_in_bytes",
    "net_out_bytes", "queue_us", "ttft_us", "latency_us",
)  # fmt: skip
TOKENS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens",
    "reasoning_output_tokens",
)  # fmt: skip
_REQUEST_TYPES = frozenset({"inference", "embedding"})


class WindowKey(NamedTuple):
    """Identity of a row; `lane` is '' or the arrival date (YYYY-MM-DD) of late usage."""

    tenant_id: str
    project_id: str
    model: str
    tool: str
    window_start: int
    lane: str


class WindowSums(msgspec.Struct, array_like=True):
    """What a row adds up; token, money and byte counts are exact integers."""

    events: int = 0
    requests: int = 0
    tokens: list[int] = msgspec.field(default_factory=lambda: [0] * len(TOKENS))
    measured: list[int | None] = msgspec.field(default_factory=lambda: [None] * len(MEASURED))
    cost_pusd: int = 0
    unpriced: int = 0
    refused: int = 0
    averted_pusd: int = 0
    outcomes: dict[str, int] = msgspec.field(default_factory=dict)
    price_book_version: str | None = None
    revision: int = 0
    closed: bool = False
    dirty: bool = False


class Windows:
    """All rows of one partition that can still change, and which of them are to be published."""

    def __init__(self, lateness_us: int) -> None:
        self._lateness_us = lateness_us
        self.rows: dict[WindowKey, WindowSums] = {}
        self.dirty: set[WindowKey] = set()
        self._by_start: dict[int, set[WindowKey]] = {}

    def put(self, key: WindowKey, sums: WindowSums) -> None:
        """Take a row as it was stored."""
        self.rows[key] = sums
        if sums.dirty:
            self.dirty.add(key)
        self._by_start.setdefault(key.window_start, set()).add(key)

    def drop(self, key: WindowKey) -> None:
        """Forget a row."""
        if self.rows.pop(key, None) is not None:
            self._by_start[key.window_start].discard(key)

    def key_of(
        self, event: Mapping[str, Any], time: int, *, unprotected: bool = False
    ) -> WindowKey:
        """The row that `event` belongs to when it arrives at broker time `time` (µs).

        `unprotected` usage, whose duplicates cannot be told any more, always goes to a lane.
        """
        occurred = min(event["occurred_at"], time + FUTURE_US)
        start = occurred - occurred % WINDOW_US
        late = unprotected or time > start + WINDOW_US + DELAY_US + self._lateness_us
        model = event["response_model"] or event["request_model"]
        lane = _date(time) if late else ""
        return WindowKey(
            event["tenant_id"], event["project_id"], model, event["tool_name"] or "", start, lane
        )

    def add(self, key: WindowKey, event: Mapping[str, Any], cost_pusd: int | None,
            price_book_version: str | None) -> None:  # fmt: skip
        """Add one event; OverflowError leaves the row as it was."""
        row = self.rows.get(key)
        if row is None:
            row = WindowSums()
            self.put(key, row)
        if event["event_type"] == "admission":
            _add_refusal(row, event)
        else:
            _add_usage(row, event, cost_pusd)
            row.price_book_version = price_book_version
        if row.closed and not row.dirty:
            row.revision += 1
        self._mark_dirty(key, row)

    def _mark_dirty(self, key: WindowKey, row: WindowSums) -> None:
        row.dirty = True
        self.dirty.add(key)

    def close_due(self, time: int) -> list[WindowKey]:
        """Mark rows whose window closed by `time`, to be published once more; return their keys."""
        due = [
            key
            for start, keys in self._by_start.items()
            if start + WINDOW_US + DELAY_US <= time
            for key in keys
            if not self.rows[key].closed
        ]
        for key in due:
            self.rows[key].closed = True
            self._mark_dirty(key, self.rows[key])
        return due

    def take_dirty(self) -> Iterator[tuple[WindowKey, WindowSums]]:
        """Rows to publish now, in key order; they count as published afterwards."""
        for key in sorted(self.dirty):
            self.rows[key].dirty = False
            yield key, self.rows[key]
        self.dirty.clear()

    def evict(self, time: int) -> list[WindowKey]:
        """Remove published rows that nothing can change any more and return their keys."""
        done = [
            key
            for start, keys in self._by_start.items()
            if start + WINDOW_US + DELAY_US + self._lateness_us < time
            for key in keys
            if key not in self.dirty and (not key.lane or key.lane < _date(time))
        ]
        for key in done:
            self.drop(key)
        for start in [s for s, keys in self._by_start.items() if not keys]:
            del self._by_start[start]
        return done

    def next_due(self) -> int | None:
        """Broker time at which a row has to be closed, or None where all are."""
        ends = [
            start + WINDOW_US + DELAY_US
            for start, keys in self._by_start.items()
            if any(not self.rows[key].closed for key in keys)
        ]
        return min(ends, default=None)


def watermark(time: int) -> int:
    """Event time up to which regular rows are complete at broker time `time`."""
    return time - DELAY_US


def row_record(key: WindowKey, row: WindowSums, time: int, version: int) -> dict[str, Any]:
    """A WindowRow as it goes on the wire."""
    tokens = dict(zip(TOKENS, row.tokens, strict=True))
    cached = tokens["cache_read_input_tokens"] + tokens["cache_write_input_tokens"]
    return {
        **key._asdict(),
        **tokens,
        **dict(zip(MEASURED, row.measured, strict=True)),
        "input_uncached_tokens": tokens["input_tokens"] - cached,
        "output_text_tokens": tokens["output_tokens"] - tokens["reasoning_output_tokens"],
        "shard": 0,
        "events": row.events,
        "requests": row.requests,
        "cost_pusd": row.cost_pusd,
        "unpriced": row.unpriced,
        "refused": row.refused,
        "averted_pusd": row.averted_pusd,
        "outcomes": [{"key": k, "value": v} for k, v in sorted(row.outcomes.items())],
        "price_book_version": row.price_book_version,
        "watermark": watermark(time),
        "revision": row.revision,
        "version": version,
    }


def refused_requests(event: Mapping[str, Any]) -> int:
    """Requests that an admission event reports as refused."""
    if event["outcome"] == "ok":
        return 0
    return sum(unit["value"] for unit in event["units"] if unit["key"] == "requests")


def _add_usage(row: WindowSums, event: Mapping[str, Any], cost_pusd: int | None) -> None:
    tokens = [checked_sum(have, event[name]) for have, name in zip(row.tokens, TOKENS, strict=True)]
    measured = [_plus(have, event[name]) for have, name in zip(row.measured, MEASURED, strict=True)]
    cost = checked_sum(row.cost_pusd, cost_pusd or 0)
    row.tokens, row.measured, row.cost_pusd = tokens, measured, cost
    row.unpriced += cost_pusd is None
    if event["event_type"] != "correction":
        row.events += 1
        row.requests += event["event_type"] in _REQUEST_TYPES
        row.outcomes[event["outcome"]] = row.outcomes.get(event["outcome"], 0) + 1


def _add_refusal(row: WindowSums, event: Mapping[str, Any]) -> None:
    averted = checked_sum(row.averted_pusd, event["estimated_cost_pusd"] or 0)
    row.refused = checked_sum(row.refused, refused_requests(event))
    row.averted_pusd = averted


def _plus(have: int | None, more: int | None) -> int | None:
    return have if more is None else checked_sum(have or 0, more)


def _date(time: int) -> str:
    return datetime.fromtimestamp(time // 1_000_000, UTC).date().isoformat()
