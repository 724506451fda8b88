"""A slow meter for tests: every event kept, every sum counted anew, no code of the real one.

It remembers whole sets where the meter keeps marks, prices with decimals, buckets by comparing
powers, splits with fractions and looks for loops by cutting blocks. What it is told as facts:
rates, baselines, packaged lengths, and how rating divides a cost over classes (it checks the sum).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache
from hashlib import blake2b
from typing import Any
from zlib import crc32

SECOND, MINUTE, HOUR = 10**6, 60 * 10**6, 3600 * 10**6
CAUSES = ("first_pass", "retry", "hedge", "recompute", "queue_hold", "loop", "abandoned",
          "context_growth")  # fmt: skip
TOKENS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens",
          "reasoning_output_tokens")  # fmt: skip
MEASURED = ("gpu_us", "energy_mj", "kv_byte_ms", "io_read_bytes", "io_write_bytes", "net_in_bytes",
            "net_out_bytes", "queue_us", "ttft_us", "latency_us")  # fmt: skip
SIZES = (("1k", 1024), ("4k", 4096), ("16k", 16384), ("64k", 65536), ("256k", 262144))
CALLS = ("inference", "embedding")
PartTuple = tuple[str, int, int]  # class, quantity, cost
Key = tuple[Any, ...]
Rows = dict[Key, dict[str, Any]]


@dataclass
class Norms:
    """A baseline as plain facts: thresholds per (operation, model, size, tool), None = any."""

    version: str
    norms: Mapping[tuple[str, str, str | None, str | None], tuple[int, int]]
    contexts: Mapping[tuple[str, str], int]


@dataclass
class World:
    """What the oracle is told: prices in US dollars per token, baselines, packaged lengths."""

    book_version: str
    rates: Mapping[str, Mapping[str, Decimal]]
    baselines: Mapping[str, Norms]
    lengths: Mapping[str, tuple[int, int, int, int]]
    task_calls: int
    task_input_tokens: int
    parts: Callable[[dict[str, Any], bool], list[PartTuple]]  # event, whether a book is in force
    lateness: int = HOUR
    dedupe: int = HOUR


@dataclass
class Arrival:
    """One record: its offset, broker time (µs), what it is, and its fields or None."""

    offset: int
    at: int
    name: str  # "usage", "invalid", "baseline", "book" or "other"
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Applied:
    """One event that counts, with everything the oracle found out about it."""

    event: dict[str, Any]
    time: int
    window: Key
    clamped: bool
    cost: int | None = None
    parts: list[PartTuple] = field(default_factory=list)
    bands: tuple[int, int, int] = (0, 0, 0)
    causes: list[int] = field(default_factory=lambda: [0] * 8)
    tails: list[int] = field(default_factory=lambda: [0] * 8)
    thresholds: tuple[int, int] | None = None
    packaged: bool = False
    book: str | None = None
    baseline: str | None = None
    task_tail: int | None = None
    looping: bool = False


@dataclass
class Part:
    """A part of a task: its events in the order of arrival, and its frozen baseline."""

    opened_at: int
    first: dict[str, Any]
    seen_at: int
    events: list[Applied] = field(default_factory=list)
    baseline: int | None = None
    ended: bool = False
    published: int | None = None
    dirty: bool = False


@dataclass
class Row:
    """What decides a window row's revision and version; its sums are counted at the end."""

    events: list[Applied] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False
    dirty: bool = False
    revision: int = 0
    published: tuple[int, int] = (0, 0)  # version, time


# ---- exact small things


@cache
def bucket(value: int) -> int:
    """Smallest i with value ≤ (101/99)^i, -1 for 0; checked by comparing whole powers."""
    if value == 0:
        return -1
    i = max(0, math.ceil(math.log(value) / math.log(101 / 99)) - 1)
    while 101**i < value * 99**i:
        i += 1
    assert i == 0 or 101 ** (i - 1) < value * 99 ** (i - 1)
    return i


def histogram(values: Iterable[tuple[int, int, int]]) -> list[dict[str, int]]:
    """Buckets of (value, count, cost) as they go on the wire; what cancels out is left out."""
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for value, count, cost in values:
        found[bucket(value)][0] += count
        found[bucket(value)][1] += cost
    return [
        {"bucket": i, "count": n, "cost_pusd": c}
        for i, (n, c) in sorted(found.items())
        if (n, c) != (0, 0)
    ]


def size_class(tokens: int) -> str:
    """The class of an input length."""
    return next((name for name, most in SIZES if tokens <= most), "max")


def model_of(event: Mapping[str, Any]) -> str:
    """The model that answered, else the one asked for."""
    return str(event["response_model"] or event["request_model"])


def telescoped(cost: int, thresholds: tuple[int, int] | None) -> tuple[int, int, int]:
    """What lies below the median, between it and the 95th percentile, and above."""
    if thresholds is None:
        return cost, 0, 0
    below = [min(cost, limit) for limit in thresholds] + [cost]
    return below[0], below[1] - below[0], below[2] - below[1]


def shared(amount: int, weights: list[int]) -> list[int]:
    """`amount` pro rata of `weights`, in whole units by largest remainder, ties by index."""
    whole = sum(weights)
    if amount == 0 or whole == 0:
        return [0] * len(weights)
    exact = [Fraction(amount * weight, whole) for weight in weights]
    given = [math.floor(share) for share in exact]
    while sum(given) < amount:
        best = max(range(len(weights)), key=lambda i: (exact[i] - given[i], -i))
        given[best] += 1
    return given


def repeats(symbols: list[Any]) -> bool:
    """Whether the newest of (tool, arguments, result, failed) goes on with a repetition."""
    last = symbols[-1]
    if last[3] and symbols[-3:] == [last] * 3:
        return True
    if symbols[-4:] == [last] * 4:
        return True
    for period in range(2, 9):
        block = symbols[-period:]
        if len(set(block)) > 1 and symbols[-3 * period :] == block * 3:
            return True
    return False


def quantities(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Counts as they go on the wire."""
    return [{"key": key, "value": value} for key, value in sorted(counts.items())]


# ---- the meter


class Oracle:
    """Takes arrivals in their order; afterwards `windows()` and the others give the final rows."""

    def __init__(self, world: World, partition: int = 0) -> None:
        self.world, self.partition = world, partition
        self.time, self.slot = 0, -1
        self.book: str | None = None
        self.baseline: Norms | None = None
        self.numbers: dict[Key, list[int]] = defaultdict(list)  # run -> numbers as they arrived
        self.sources: dict[Key, Counter[str]] = defaultdict(Counter)
        self.remembered: dict[Key, int] = {}
        self.rows: dict[Key, Row] = defaultdict(Row)
        self.parts: dict[Key, list[Part]] = defaultdict(list)
        self.open: dict[Key, Part] = {}
        self.cohorts: dict[Key, list[tuple[int, int]]] = defaultdict(list)
        self.applied: list[Applied] = []

    def take(self, arrivals: Iterable[Arrival]) -> Oracle:
        """Apply arrivals in order."""
        for arrival in arrivals:
            self._clock(arrival)
            if arrival.name == "book":
                self.book = self.world.book_version
            elif arrival.name == "baseline":
                version = arrival.fields["version"]
                self.baseline = self.world.baselines[version] if version else None
            elif arrival.name == "usage" and self._is_new(arrival.fields):
                self._apply(arrival.fields)
            elif arrival.name == "invalid" and arrival.fields["source_seq"]:
                self._is_new(arrival.fields)
        return self

    def _clock(self, arrival: Arrival) -> None:
        self.time = max(self.time, arrival.at)
        last, self.slot = self.slot, self.time // SECOND
        if self.slot // 5 != last // 5:
            self._end_due()
        if self.slot != last:
            turns = {second % 5 for second in range(max(last, self.slot - 5) + 1, self.slot + 1)}
            self._publish_windows(arrival.offset, turns)
        if self.slot // 5 != last // 5:
            self._publish_tasks(arrival.offset)
        if self.slot // 60 != last // 60:
            self._sweep()

    def _end_due(self) -> None:
        for key, row in self.rows.items():
            if not row.closed and key[4] + 90 * SECOND <= self.time:
                row.closed = row.dirty = True
        for part in self.open.values():
            if not part.ended and part.seen_at + 10 * MINUTE <= self.time:
                part.ended = part.dirty = True

    def _publish_windows(self, version: int, turns: set[int]) -> None:
        for key, row in self.rows.items():
            if row.dirty and crc32(key[0].encode()) % 5 in turns:
                row.dirty, row.published = False, (version, self.time)

    def _publish_tasks(self, version: int) -> None:
        for part in self.open.values():
            if part.dirty:
                part.dirty, part.published = False, version

    def _sweep(self) -> None:
        for key in [k for k, p in self.open.items() if p.seen_at + HOUR < self.time]:
            self._task_counts(self.open.pop(key))
        old = [k for k, at in self.remembered.items() if at < self.time - self.world.dedupe]
        for key in old:
            del self.remembered[key]

    def _task_counts(self, part: Part) -> None:
        usage = [a for a in part.events if a.event["event_type"] != "correction"]
        cost = sum(a.cost or 0 for a in part.events)
        tokens = sum(a.event["input_tokens"] for a in part.events)
        if len(usage) > max(0, self._unpriced(part.events)) and min(cost, tokens) >= 0:
            agent = part.first["agent_name"] or part.first["workflow_name"] or ""
            hour = self.time // HOUR * HOUR
            self.cohorts["task", "", "", "", agent, hour].append((cost, tokens))

    # ---- one event

    def _is_new(self, event: dict[str, Any]) -> bool:
        number = event["source_seq"]
        run = (event["source"], event["source_epoch"] if number else "", event["tenant_id"])
        counts = self.sources[run]
        counts["last_seen_at"] = self.time
        if number is None:
            identity = (event["source"], event["event_id"])
            new = identity not in self.remembered
            if new:
                self.remembered[identity] = max(self.time, event["occurred_at"])
        else:
            new = number not in self.numbers[run]
            counts["recovered"] += new and number < max(self.numbers[run], default=0)
            self.numbers[run].append(number)
        counts["events" if new else "duplicates"] += 1
        return new

    def _apply(self, event: dict[str, Any]) -> None:
        unprotected = (
            event["source_seq"] is None and self.time - event["occurred_at"] > self.world.dedupe
        )
        run = (event["source"], event["source_epoch"] if event["source_seq"] else "",
               event["tenant_id"])  # fmt: skip
        self.sources[run]["unprotected"] += unprotected
        window = self._window(event, unprotected=unprotected)
        row = self.rows[window]
        row.revision += row.closed and not row.dirty
        row.dirty = True
        if event["event_type"] == "admission":
            row.refusals.append(event)
            return
        clamped = event["occurred_at"] > self.time + 5 * SECOND
        found = self._labelled(Applied(event, self.time, window, clamped=clamped))
        row.events.append(found)
        self.applied.append(found)
        if event["task_id"] is not None:
            self._to_task(found)
        self._to_cohort(found)

    def _window(self, event: dict[str, Any], *, unprotected: bool) -> Key:
        occurred = min(event["occurred_at"], self.time + 5 * SECOND)
        start = occurred // MINUTE * MINUTE
        late = unprotected or self.time > start + 90 * SECOND + self.world.lateness
        day = datetime.fromtimestamp(self.time // SECOND, UTC).strftime("%Y-%m-%d")
        return (event["tenant_id"], event["project_id"], model_of(event),
                event["tool_name"] or "", start, day if late else "")  # fmt: skip

    def _labelled(self, found: Applied) -> Applied:
        event = found.event
        found.book = self.book
        found.baseline = self.baseline.version if self.baseline else None
        found.cost = self.price(event)
        found.parts = self.world.parts(event, self.book is not None)
        found.thresholds, found.packaged = self._thresholds(event)
        found.looping = self._looping(event)
        if found.cost is None:
            return found
        assert sum(part[2] for part in found.parts) == found.cost
        if event["event_type"] == "correction":
            before = event["original_cost_pusd"] or 0
            old = telescoped(before, found.thresholds)
            new = telescoped(before + found.cost, found.thresholds)
            found.bands = (new[0] - old[0], new[1] - old[1], new[2] - old[2])
        else:
            found.bands = telescoped(found.cost, found.thresholds)
        found.causes = self._split(found)
        if event["event_type"] == "correction":
            found.tails = [found.bands[2] if share else 0 for share in found.causes]
        else:
            found.tails = shared(found.bands[2], found.causes)
        return found

    def price(self, event: dict[str, Any]) -> int | None:
        """Cost in pico-USD: billed or stated, else tokens times dollars; None without a price."""
        if event["event_type"] == "gpu_adjustment":
            return 0
        if event["cost_pusd"] is not None:
            return int(event["cost_pusd"])
        if event["event_type"] == "tool":
            return 0
        rates = self.world.rates.get(model_of(event)) if self.book else None
        return None if rates is None else self._priced(rates, event)

    @staticmethod
    def _priced(rates: Mapping[str, Decimal], event: Mapping[str, Any]) -> int:
        read, written = event["cache_read_input_tokens"], event["cache_write_input_tokens"]
        thought = event["reasoning_output_tokens"]
        dollars = (
            (event["input_tokens"] - read - written) * rates["input"]
            + read * rates["cache_read"]
            + written * rates["cache_write"]
            + (event["output_tokens"] - thought) * rates["output"]
            + thought * rates["reasoning"]
        )
        return int((dollars * 10**12).to_integral_exact())

    def _thresholds(self, event: dict[str, Any]) -> tuple[tuple[int, int] | None, bool]:
        if event["event_type"] == "correction":
            q50, q95 = event["baseline_q50_pusd"], event["baseline_q95_pusd"]
            return (None if q50 is None or q95 is None else (q50, q95)), False
        if event["event_type"] == "gpu_adjustment":
            return None, False  # it adds to a request that was judged already
        operation, model, tool = event["operation_name"], model_of(event), event["tool_name"] or ""
        size = "" if event["event_type"] == "tool" else size_class(event["input_tokens"])
        for slot in ((operation, model, size, tool), (operation, model, size, None),
                     (operation, model, None, None)):  # fmt: skip
            if self.baseline and slot in self.baseline.norms:
                return self.baseline.norms[slot], False
        rates = self.world.rates.get(model) if self.book else None
        if rates is None or event["event_type"] not in CALLS:
            return None, False
        in50, in95, out50, out95 = self.world.lengths[size]
        if event["event_type"] == "embedding":
            out50 = out95 = 0
        zero = dict.fromkeys(TOKENS, 0)
        low = self._priced(rates, zero | {"input_tokens": in50, "output_tokens": out50})
        high = self._priced(rates, zero | {"input_tokens": in95, "output_tokens": out95})
        return (low, max(low, high)), True

    # ---- causes

    def _split(self, found: Applied) -> list[int]:
        event, cost = found.event, found.cost or 0
        causes = dict.fromkeys(CAUSES, 0)
        again = event["attempt"] > 1 or event["attempt_kind"] is not None
        if event["attempt_kind"] == "hedge":
            causes["hedge"] = cost
        elif again:
            causes["retry"] = cost
        elif found.looping:
            causes["loop"] = cost
        elif event["slo_outcome"] == "abandoned" or event["outcome"] == "cancelled":
            causes["abandoned"] = cost
        else:
            if event["event_type"] != "correction":
                self._partly(found, causes)
            causes["first_pass"] = cost - sum(causes.values())
        return list(causes.values())

    def _partly(self, found: Applied, causes: dict[str, int]) -> None:
        event = found.event
        tokens, read = event["input_tokens"], event["cache_read_input_tokens"]
        new_input = self._costing(found, "input", "cache_write")
        lost = max(self._cached(event) - read, 0)
        again = min(max(event["recomputed_input_tokens"], lost), tokens - read)
        if again > 0:
            causes["recompute"] = math.floor(Fraction(new_input * again, tokens - read))
        usual = self._usual(event)
        if usual:
            beyond = min(tokens - usual, tokens - again)
            if beyond > 0:
                rest = new_input + self._costing(found, "cache_read") - causes["recompute"]
                causes["context_growth"] = math.floor(Fraction(rest * beyond, tokens - again))
        if event["queue_us"] and event["latency_us"]:
            waited = Fraction(min(event["queue_us"], event["latency_us"]), event["latency_us"])
            timed = self._costing(found, "gpu_us", "kv_byte_ms")
            causes["queue_hold"] = math.floor(timed * waited)

    @staticmethod
    def _costing(found: Applied, *classes: str) -> int:
        return sum(c for key, _, c in found.parts if any(key.startswith(name) for name in classes))

    def _usual(self, event: dict[str, Any]) -> int | None:
        contexts = self.baseline.contexts if self.baseline else {}
        usual = contexts.get((event["operation_name"], model_of(event)))
        if usual is None and event["task_id"] is not None:
            return self.world.task_input_tokens
        return usual

    def _history(self, event: dict[str, Any]) -> list[Applied]:
        part = self.open.get((event["tenant_id"], event["task_id"]))
        return [a for a in part.events if a.event["event_type"] != "correction"] if part else []

    def _cached(self, event: dict[str, Any]) -> int:
        """What the task's last call left in the provider's cache."""
        calls = [a.event for a in self._history(event) if a.event["event_type"] == "inference"]
        if not calls or event["event_type"] not in CALLS:
            return 0
        if model_of(calls[-1]) != model_of(event):
            return 0  # another model has a cache of its own
        return int(calls[-1]["cache_read_input_tokens"] + calls[-1]["cache_write_input_tokens"])

    def _looping(self, event: dict[str, Any]) -> bool:
        if event["task_id"] is None or event["event_type"] == "correction":
            return False
        symbols = [_symbol(a.event) for a in self._history(event)]
        symbols = [symbol for symbol in (*symbols, _symbol(event)) if symbol is not None]
        return bool(symbols) and repeats(symbols)

    # ---- tasks and cohorts

    def _to_task(self, found: Applied) -> None:
        event = found.event
        key = (event["tenant_id"], event["task_id"])
        if key not in self.open:
            self.open[key] = Part(self.time, event, self.time)
            self.parts[key].append(self.open[key])
        part = self.open[key]
        before = self._task_tail(part)
        if part.baseline is None:
            part.baseline = self._task_baseline(part, found)
        part.events.append(found)
        after = self._task_tail(part)
        found.task_tail = None if after is None else after - (before or 0)
        part.dirty = True
        if event["event_type"] != "correction":
            part.seen_at, part.ended = self.time, False

    @staticmethod
    def _task_tail(part: Part) -> int | None:
        spent = sum(a.cost or 0 for a in part.events)
        return None if part.baseline is None else max(0, spent - part.baseline)

    def _task_baseline(self, part: Part, found: Applied) -> int | None:
        agent = part.first["agent_name"] or part.first["workflow_name"] or ""
        norms = self.baseline.norms if self.baseline else {}
        if ("task", "", None, agent) in norms:
            return norms["task", "", None, agent][1]
        if found.thresholds is None or found.cost is None:
            return None
        return self.world.task_calls * found.thresholds[1]

    def _to_cohort(self, found: Applied) -> None:
        event = found.event
        if (
            found.cost is None
            or event["event_type"] not in (*CALLS, "tool")
            or event["outcome"] in ("rejected", "throttled", "queued_out")
            or found.looping
        ):
            return
        hour = min(event["occurred_at"], self.time) // HOUR * HOUR
        if self.time <= hour + HOUR + self.world.lateness:
            size = "" if event["event_type"] == "tool" else size_class(event["input_tokens"])
            key = ("event", event["operation_name"], model_of(event), size,
                   event["tool_name"] or "", hour)  # fmt: skip
            self.cohorts[key].append((found.cost, event["input_tokens"]))

    @staticmethod
    def _unpriced(events: Iterable[Applied]) -> int:
        unpriced = 0
        for a in events:
            if a.event["event_type"] != "correction":
                unpriced += a.cost is None
            elif a.event["original_cost_pusd"] is None and a.cost is not None:
                unpriced -= 1
        return unpriced

    # ---- final rows

    def windows(self) -> Rows:
        """Every WindowRow in its last version."""
        return {key: self.window_row(key, row) for key, row in self.rows.items()}

    def window_row(self, key: Key, row: Row) -> dict[str, Any]:
        """The WindowRow of these events, in the version that was published last."""
        everything = row.events
        usage = [a for a in everything if a.event["event_type"] != "correction"]
        corrections = [a for a in everything if a.event["event_type"] == "correction"]
        total = {name: sum(a.event[name] for a in everything) for name in TOKENS}
        tails = [a.task_tail for a in everything if a.task_tail is not None]
        version, time = row.published
        names = ("tenant_id", "project_id", "model", "tool", "window_start", "lane")
        return {
            **dict(zip(names, key, strict=True)),
            **total,
            **{name: _known_sum(a.event[name] for a in everything) for name in MEASURED},
            "shard": 0,
            "events": len(usage),
            "requests": sum(a.event["event_type"] in CALLS for a in usage),
            "input_uncached_tokens": total["input_tokens"] - total["cache_read_input_tokens"]
            - total["cache_write_input_tokens"],
            "output_text_tokens": total["output_tokens"] - total["reasoning_output_tokens"],
            "cost_pusd": sum(a.cost or 0 for a in everything),
            "unpriced": self._unpriced(everything),
            "usage_by_class": _by_class(everything),
            "corrections": len(corrections),
            "corrected_pusd": sum(a.cost or 0 for a in corrections),
            "clamped": sum(a.clamped for a in everything),
            "body_pusd": sum(a.bands[0] for a in everything),
            "shoulder_pusd": sum(a.bands[1] for a in everything),
            "tail_pusd": sum(a.bands[2] for a in everything),
            "tail_by_cause": _by_cause([a.tails for a in everything]),
            "overhead_by_cause": _by_cause([a.causes for a in everything]),
            "task_tail_pusd": sum(tails) if tails else None,
            "outcomes": quantities(Counter(a.event["outcome"] for a in usage)),
            "slo_outcomes": _stated(a.event["slo_outcome"] for a in usage),
            "good": sum(_good(a.event) for a in usage),
            "rollback_reasons": _stated(a.event["rollback_reason"] for a in usage),
            "risk_flags": _stated(flag for a in usage for flag in a.event["risk_flags"]),
            "refused": sum(_refused(event) for event in row.refusals),
            "averted_pusd": sum(event["estimated_cost_pusd"] or 0 for event in row.refusals),
            "latency_histogram": histogram(
                (a.event["latency_us"], 1, a.cost or 0)
                for a in usage
                if a.event["latency_us"] is not None
            ),
            "cost_histogram": histogram(_costs(everything)),
            "price_book_version": usage[-1].book if usage else None,
            "baseline_version": usage[-1].baseline if usage else None,
            "packaged": sum(a.cost is not None and a.packaged for a in usage),
            "unlabelled": sum(a.cost is not None and a.thresholds is None for a in usage),
            "watermark": time - 30 * SECOND,
            "revision": row.revision,
            "version": version,
        }  # fmt: skip

    def tasks(self) -> Rows:
        """Every TaskRow in its last version."""
        return {
            (*key, part.opened_at): self._task_row(key, part)
            for key, parts in self.parts.items()
            for part in parts
        }

    def _task_row(self, key: Key, part: Part) -> dict[str, Any]:
        everything = part.events
        usage = [a for a in everything if a.event["event_type"] != "correction"]
        first = [a for a in usage if a.event["attempt"] <= 1 and a.event["attempt_kind"] is None]
        last = _latest(part, usage)
        slo = None
        for place in range(len(usage)):
            newest = _latest(part, usage[: place + 1])
            if newest is usage[place].event:
                slo = newest["slo_outcome"] or slo
        parents = Counter(a.event["parent_event_id"] for a in usage)
        del parents[None]
        return {
            "tenant_id": key[0], "task_id": key[1], "opened_at": part.opened_at,
            **{name: part.first[name] for name in ("project_id", "agent_name", "workflow_name")},
            "events": len(usage),
            "steps": sum(a.event["event_type"] in CALLS for a in first),
            "tool_calls": sum(a.event["event_type"] == "tool" for a in first),
            "depth": max((a.event["depth"] for a in usage), default=0),
            "fan_out": max(parents.values(), default=0),
            "retries": len(usage) - len(first),
            "input_tokens": sum(a.event["input_tokens"] for a in everything),
            "output_tokens": sum(a.event["output_tokens"] for a in everything),
            "cost_pusd": sum(a.cost or 0 for a in everything),
            "unpriced": self._unpriced(everything),
            "tail_pusd": sum(a.bands[2] for a in everything),
            "loop_pusd": sum(a.cost or 0 for a in usage if a.looping),
            "baseline_pusd": part.baseline,
            "task_tail_pusd": self._task_tail(part),
            "loop_score_ppm": _score([_symbol(a.event) for a in usage]),
            "outcome": last["outcome"] if part.ended and last else None,
            "slo_outcome": slo,
            "ended": part.ended,
            "started_at": min([part.first["started_at"], *(a.event["started_at"] for a in usage)]),
            "last_seen_at": last["occurred_at"] if last else part.first["occurred_at"],
            "caps": [],
            "version": part.published,
        }  # fmt: skip

    def source_rows(self) -> Rows:
        """Every SourceRow but its version."""
        found = {}
        for run, counts in self.sources.items():
            seen = set(self.numbers.get(run, ()))
            highest = max(seen, default=0)
            found[run] = {
                "tenant_id": run[2], "source": run[0], "source_epoch": run[1],
                "highest": highest, "missing": highest - len(seen), "lost": 0,
                **{name: counts[name] for name in (
                    "events", "recovered", "duplicates", "unprotected", "last_seen_at")},
            }  # fmt: skip
        return found

    def cohort_rows(self) -> Rows:
        """Every CohortRow but its version and watermark."""
        names = ("kind", "operation_name", "model", "size_class", "tool", "hour_start")
        return {
            key: {
                **dict(zip(names, key, strict=True)),
                "source_partition": self.partition,
                "events": len(found),
                "cost_histogram": histogram((cost, 1, cost) for cost, _ in found),
                "input_histogram": histogram((tokens, 1, 0) for _, tokens in found),
            }
            for key, found in self.cohorts.items()
        }


def _symbol(event: Mapping[str, Any]) -> tuple[Any, ...] | None:
    if event["event_type"] != "tool" or event["tool_args_hash"] is None:
        return None
    if event["result_hash"] is None and event["outcome"] != "error":
        return None  # whether it came back with the same is unknown
    return (event["tool_name"] or "", event["tool_args_hash"], event["result_hash"] or "",
            event["outcome"] == "error")  # fmt: skip


def _score(symbols: list[tuple[Any, ...] | None]) -> int | None:
    known = [blake2b(repr(s).encode()).digest() for s in symbols if s is not None][-32:]
    runs = list(zip(known, known[1:], known[2:], strict=False))
    return (len(runs) - len(set(runs))) * 10**6 // len(runs) if runs else None


def _latest(part: Part, usage: list[Applied]) -> dict[str, Any] | None:
    """The event that ended last; of equal ones the one that arrived last."""
    latest, ended = None, part.first["occurred_at"]
    for a in usage:
        if a.event["occurred_at"] >= ended:
            latest, ended = a.event, a.event["occurred_at"]
    return latest


def _known_sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _by_class(events: Iterable[Applied]) -> list[dict[str, Any]]:
    quantity, cost = Counter[str](), Counter[str]()
    for a in events:
        for key, used, paid in a.parts:
            quantity[key] += used
            cost[key] += paid
    return [{"key": k, "quantity": quantity[k], "cost_pusd": cost[k]} for k in sorted(quantity)]


def _by_cause(splits: list[list[int]]) -> list[dict[str, Any]]:
    sums = [sum(split[i] for split in splits) for i in range(len(CAUSES))]
    return [{"key": k, "value": v} for k, v in zip(CAUSES, sums, strict=True) if v]


def _costs(events: Iterable[Applied]) -> Iterable[tuple[int, int, int]]:
    for a in events:
        if a.cost is None:
            continue
        before = a.event["original_cost_pusd"]
        if a.event["event_type"] != "correction":
            yield a.cost, 1, a.cost
            continue
        if before is not None:
            yield max(0, before), -1, -before
        after = (before or 0) + a.cost
        yield max(0, after), 1, after


def _stated(keys: Iterable[str | None]) -> list[dict[str, Any]]:
    return quantities(Counter(key for key in keys if key is not None))


def _good(event: Mapping[str, Any]) -> bool:
    if event["slo_outcome"] is None:
        return event["outcome"] in ("ok", "degraded")
    return bool(event["slo_outcome"] == "good")


def _refused(event: Mapping[str, Any]) -> int:
    if event["outcome"] == "ok":
        return 0
    return sum(unit["value"] for unit in event["units"] if unit["key"] == "requests")
