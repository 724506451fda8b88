"""Streams of usage for the laws: drawn as small choices, built into records and oracle arrivals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from tests.builders import (
    NOW,
    POLICY,
    TOPICS,
    FakeRecord,
    FakeReferences,
    activate,
    partition,
    policy,
    record,
    usage,
)
from tests.laws.oracle import HOUR, Applied, Arrival, Norms, Oracle, Rows, World

from sluice.metering import packaged
from sluice.metering.baselines import Baseline, Norm
from sluice.metering.prices import PriceBook, PriceEntry
from sluice.metering.rates import Tier
from sluice.metering.rating import cost, unpriced_parts
from sluice.money import pusd
from sluice.runtime.outputs import OutRecord
from sluice.runtime.partition import Partition
from sluice.wire.codec import decode, encode

Drawn = dict[str, Any]
SECOND, MINUTE = 1_000_000, 60_000_000

DOLLARS = {
    "small": {"input": "0.00000015", "cache_read": "0.000000075", "cache_write": "0.0000002",
              "output": "0.0000006", "reasoning": "0.0000007"},
    "large": {"input": "0.0000025", "cache_read": "0.00000125", "cache_write": "0.000003125",
              "output": "0.00001", "reasoning": "0.000010000003"},
}  # fmt: skip
BOOK = PriceBook(
    "laws", "hand", "none",
    tuple(PriceEntry(model, "p", (Tier("", 0, {k: pusd(v) for k, v in rates.items()}),))
          for model, rates in DOLLARS.items()),
)  # fmt: skip

# Two measured versions: the first knows few cohorts, the second more, tasks among them.
_FIRST = {("chat", "small", "1k", ""): (20_000_000, 90_000_000, 200)}
_SECOND = {
    ("chat", "small", "1k", ""): (24_000_000, 100_000_000, 300),
    ("chat", "large", None, None): (0, 2_000_000_000, 250),
    ("execute_tool", "small", "", "search"): (0, 5, 400),
    ("task", "", None, "writer"): (100_000_000, 900_000_000, 40),
}
BASELINES = (
    Baseline(1, {slot: Norm(*norm) for slot, norm in _FIRST.items()}, {}),
    Baseline(2, {slot: Norm(*norm) for slot, norm in _SECOND.items()}, {("chat", "small"): 400}),
)


def _norms(baseline: Baseline) -> Norms:
    norms = {slot: (norm.q50_pusd, norm.q95_pusd) for slot, norm in baseline.norms.items()}
    return Norms(baseline.version, norms, dict(baseline.contexts))


def _parts(event: dict[str, Any], in_force: bool) -> list[tuple[str, int, int]]:
    book = BOOK if in_force else None
    rated = cost(book, event)
    return [tuple(part) for part in (rated.parts if rated else unpriced_parts(event))]


WORLD = World(
    book_version=BOOK.version,
    rates={m: {k: Decimal(v) for k, v in rates.items()} for m, rates in DOLLARS.items()},
    baselines={baseline.version: _norms(baseline) for baseline in BASELINES},
    lengths={name: tuple(lengths) for name, lengths in packaged._LENGTHS.items()},
    task_calls=packaged.TASK_CALLS,
    task_input_tokens=packaged.TASK_INPUT_TOKENS,
    parts=_parts,
)

_gaps = st.sampled_from(["ms"] * 6 + ["s"] * 3 + ["long"]).flatmap(
    lambda size: {
        "ms": st.integers(0, 3_000),
        "s": st.integers(0, 70_000),
        "long": st.sampled_from([601_000, 3_661_000, 7_200_000, 90_000_000]),
    }[size]
)
_backs = st.one_of(
    st.just(0), st.integers(0, 400), st.sampled_from([-4, -20, -1800, 3_500, 3_700, 7_300, 90_000])
)
_kinds = st.sampled_from(
    ["inference"] * 8 + ["tool"] * 4 + ["correction"] * 4 + ["resend"] * 3
    + ["embedding", "gpu_adjustment", "admission", "invalid", "garbage", "tick", "first",
       "second", "second", "none"]
)  # fmt: skip


def _mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * len(others) + list(others))


_tokens_of = st.tuples(
    st.integers(0, 5_000), st.integers(0, 3_000), st.integers(0, 2_000), st.integers(0, 3_000),
    st.integers(0, 500),
)  # fmt: skip
_anything = st.fixed_dictionaries(
    {"kind": _kinds, "gap_ms": _gaps},
    optional={
        "back_s": _backs,
        "times": st.integers(2, 5),
        "tenant": _mostly("acme", "beta"),
        "project": _mostly("p1", "p2"),
        "model": _mostly("small", "large", "unheard-of"),
        "task": st.sampled_from(["t1", "t1", "t2"]),
        "agent": st.sampled_from(["writer", "reader"]),
        "tool": st.just("fetch"),
        "args": st.just("y"),
        "result": st.sampled_from(["r1", "r2", None]),
        "attempt": _mostly((1, None), (2, None), (2, "hedge"), (1, "hedge"), (3, "retry")),
        "outcome": _mostly("ok", "error", "cancelled", "rejected", "degraded"),
        "slo": _mostly("good", "slow", "abandoned"),
        "tokens": _tokens_of,
        "recomputed": st.integers(0, 3_000),
        "waits": st.tuples(
            st.sampled_from([None, 0, 50_000]), st.sampled_from([None, 0, 40_000, 200_000])
        ),
        "gpu": st.tuples(st.sampled_from([None, 7_000]), st.sampled_from([None, 9])),
        "billed": st.integers(0, 3_000_000_000),
        "flags": st.sampled_from([["burst"], ["burst", "loop"]]),
        "rollback": st.just("unsafe"),
        "parent": st.sampled_from(["e1", "e2"]),
        "depth": st.integers(0, 3),
        "unnumbered": _mostly(False, True),
        "hold": _mostly(0, 1, 2, 3, 3),
        "which": st.integers(0, 100),
        "delta": st.integers(-40_000_000, 3_000_000_000),
        "limits": st.tuples(st.integers(0, 10**8), st.integers(0, 10**9)),
        "before": st.integers(-5, 10**9),
    },
)
# An agent's next call: longer and longer context, now and then a cold cache.
_call = st.fixed_dictionaries(
    {"kind": st.just("inference"), "gap_ms": st.integers(0, 3_000), "task": st.just("t1"),
     "tokens": _tokens_of, "model": _mostly("small", "large")},
    optional={"recomputed": st.integers(0, 3_000), "agent": st.just("writer"),
              "attempt": _mostly((1, None), (2, None), (1, "hedge")),
              "hold": st.sampled_from([1, 2, 3])},
)  # fmt: skip
# A tool that is called again and again; its cost is the loop's.
_same = st.fixed_dictionaries(
    {"kind": st.just("tool"), "gap_ms": st.integers(0, 3_000), "task": st.just("t1"),
     "times": st.integers(1, 5), "billed": st.integers(1, 9_000)},
    optional={"result": st.sampled_from(["r1", "r2", None]), "args": st.just("y"),
              "outcome": st.just("error")},
)  # fmt: skip
_costly = st.fixed_dictionaries(
    {"kind": st.just("inference"), "gap_ms": _gaps, "billed": st.integers(10**8, 10**10)},
    optional={"task": st.just("t1"), "slo": st.just("abandoned"), "back_s": _backs},
)
streams = st.lists(st.one_of(_anything, _anything, _call, _same, _costly), min_size=8, max_size=30)


@dataclass
class Stream:
    """A built stream: what the partition consumes and what the oracle is told."""

    records: list[FakeRecord] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    at: int = NOW

    def put(self, name: str, value: FakeRecord, fields: dict[str, Any] | None = None) -> None:
        """Append a record and its meaning."""
        self.records.append(value)
        self.arrivals.append(Arrival(value.offset, value.timestamp * 1000, name, fields or {}))

    @property
    def offset(self) -> int:
        """Offset of the next record."""
        return len(self.records)

    def pass_time(self, micros: int) -> None:
        """Let time pass and show it with a tick."""
        self.at += micros
        self.put("other", FakeRecord(self.offset, self.at // 1000, None, encode("Tick", {})))

    def send(self, event: dict[str, Any], name: str = "usage") -> None:
        """Append a usage event as it is decoded again at the other end."""
        made = record(self.offset, event, at=self.at)
        self.put(name, made, decode(made.value or b"")[1])
        if name == "usage":
            self.events.append(event)

    def settle(self) -> Stream:
        """Let everything end, so that the last version of every row is published."""
        for micros in (2 * HOUR, 2 * MINUTE, MINUTE):
            self.pass_time(micros)
        return self


class _Numbers:
    """Numbers of events per tenant, with some held back to arrive later."""

    def __init__(self) -> None:
        self._next: Counter[str] = Counter()
        self._held: dict[str, list[int]] = {}

    def take(self, tenant: str, hold: int) -> int:
        held = self._held.setdefault(tenant, [])
        if hold == 3 and held:
            return held.pop(0)
        if hold in (1, 2):
            for _ in range(hold):
                self._next[tenant] += 1
                held.append(self._next[tenant])
        self._next[tenant] += 1
        return self._next[tenant]


def build(drawn: Iterable[Drawn], *, settle: bool = True) -> Stream:
    """The drawn choices as a stream, with the book in force from its beginning."""
    stream, numbers = Stream(), _Numbers()
    references = FakeReferences()
    stream.put("book", activate(0, references.put(BOOK)))
    stream.put("other", activate(1, references.put(policy())))
    for choice in drawn:
        stream.at += choice["gap_ms"] * 1000
        _add(stream, numbers, choice)
    return stream.settle() if settle else stream


def _add(stream: Stream, numbers: _Numbers, choice: Drawn) -> None:
    kind = choice["kind"]
    if kind == "garbage":
        stream.put("other", record(stream.offset, b"garbage", at=stream.at))
    elif kind == "tick":
        stream.pass_time(0)
    elif kind in ("first", "second", "none"):
        version = {"first": BASELINES[0].version, "second": BASELINES[1].version}.get(kind, "")
        made = activate(stream.offset, ("baseline", "default", version), at=stream.at)
        stream.put("baseline", made, {"version": version})
    elif kind == "resend":
        if stream.events:
            again = stream.events[choice.get("which", 0) % len(stream.events)]
            if stream.at - again["occurred_at"] < 30 * 24 * HOUR:
                stream.send(again)
    else:
        for _ in range(choice.get("times", 1)):
            event = _event(stream, numbers, choice)
            stream.send(event, "invalid" if kind == "invalid" else "usage")
            stream.at += 1000


def _event(stream: Stream, numbers: _Numbers, choice: Drawn) -> dict[str, Any]:
    kind = choice["kind"]
    tenant = choice.get("tenant", "acme")
    occurred = stream.at - choice.get("back_s", 0) * SECOND
    number = numbers.take(tenant, choice.get("hold", 0))
    event = usage(
        number, source_seq=None if choice.get("unnumbered") else number, tenant_id=tenant,
        event_id=f"{tenant}-{number}", event_type="inference" if kind == "invalid" else kind,
        occurred_at=occurred, started_at=occurred - 1000, project_id=choice.get("project", "p1"),
        provider_name="p", request_model=choice.get("model", "small"), response_model=None,
        task_id=choice.get("task"), agent_name=choice.get("agent"),
        outcome=choice.get("outcome", "ok"), slo_outcome=choice.get("slo"),
        risk_flags=choice.get("flags", []), rollback_reason=choice.get("rollback"),
        parent_event_id=choice.get("parent"), depth=choice.get("depth", 0),
    )  # fmt: skip
    event["attempt"], event["attempt_kind"] = choice.get("attempt", (1, None))
    event["queue_us"], event["latency_us"] = choice.get("waits", (None, 1_000))
    event["gpu_us"], event["energy_mj"] = choice.get("gpu", (None, None))
    if kind == "correction":
        return event | _correction(stream, choice)
    if kind in ("inference", "embedding"):
        event |= _tokens(choice)
    else:
        event |= {"input_tokens": -1 if kind == "invalid" else 0, "output_tokens": 0}
    if kind == "tool":
        event |= {
            "operation_name": "execute_tool",
            "tool_name": choice.get("tool", "search"),
            "tool_args_hash": choice.get("args", "x"),
            "result_hash": choice.get("result", "r1"),
        }
    if kind == "admission":
        event |= {"units": [{"key": "requests", "value": 3}], "estimated_cost_pusd": 17}
    if "billed" in choice and kind in ("inference", "tool"):
        event |= {"cost_pusd": choice["billed"], "cost_source": "provider"}
    return event


def _tokens(choice: Drawn) -> dict[str, Any]:
    fresh, read, written, output, thought = choice.get("tokens", (100, 0, 0, 100, 0))
    whole = fresh + read + written
    return {
        "input_tokens": whole, "cache_read_input_tokens": read,
        "cache_write_input_tokens": written, "output_tokens": output + thought,
        "reasoning_output_tokens": thought,
        "recomputed_input_tokens": min(choice.get("recomputed", 0), whole),
    }  # fmt: skip


def _correction(stream: Stream, choice: Drawn) -> dict[str, Any]:
    """Signed deltas under an earlier event's key, or under its own where there is none."""
    limits = choice.get("limits")
    low, high = sorted(limits) if limits else (None, None)
    delta = choice.get("delta", 5)
    fields = {
        "corrects_event_id": "gone", "input_tokens": -7, "output_tokens": 3,
        "cost_pusd": delta, "cost_source": "provider",
        "usage_by_class": [{"key": "output", "quantity": 3, "cost_pusd": delta}],
        "original_cost_pusd": choice.get("before"), "baseline_q50_pusd": low,
        "baseline_q95_pusd": high, "gpu_us": None, "energy_mj": None, "queue_us": None,
        "latency_us": -5,
    }  # fmt: skip
    if stream.events:
        original = stream.events[choice.get("which", 0) % len(stream.events)]
        if stream.at - original["started_at"] < 30 * 24 * HOUR:
            fields |= {name: original[name] for name in _KEY}
            fields["corrects_event_id"] = original["event_id"]
    return fields


_KEY = ("project_id", "request_model", "response_model", "operation_name", "occurred_at",
        "started_at", "task_id", "agent_name", "attempt", "attempt_kind")  # fmt: skip


# ---- running it


def store() -> FakeReferences:
    """Everything that a built stream activates."""
    references = FakeReferences(BOOK, policy(POLICY))
    for baseline in BASELINES:
        references.held["baseline", "default", baseline.version] = baseline
    return references


def started() -> Partition:
    """An empty partition that holds every version."""
    return partition(store())


def outputs(part: Partition) -> list[OutRecord]:
    """What leaves the partition, without its own state rows."""
    return [out for out in part.take() if out.topic != TOPICS.meter_state]


def pieces(made: list[FakeRecord], cuts: list[int]) -> list[list[FakeRecord]]:
    """The records cut at the given borders."""
    borders = sorted({min(c, len(made)) for c in cuts} | {0, len(made)})
    return [made[a:b] for a, b in pairwise(borders)]


def without(rows: Rows, *names: str) -> Rows:
    """Rows without some fields."""
    return {key: {k: v for k, v in row.items() if k not in names} for key, row in rows.items()}


def last_rows(outs: Iterable[OutRecord]) -> dict[str, Rows]:
    """The last version of every published row, by topic and identity."""
    found: dict[str, Rows] = {"windows": {}, "tasks": {}, "sources": {}, "cohorts": {}}
    names = {TOPICS.windows: "windows", TOPICS.tasks: "tasks", TOPICS.sources: "sources",
             TOPICS.partials: "cohorts"}  # fmt: skip
    for out in outs:
        if out.topic in names and out.value:
            row, kind = decode(out.value)[1], names[out.topic]
            key = tuple(row[name] for name in IDENTITY[kind])
            before = found[kind].get(key)
            assert before is None or before["version"] < row["version"]
            found[kind][key] = row
    return found


IDENTITY = {
    "windows": ("tenant_id", "project_id", "model", "tool", "window_start", "lane"),
    "tasks": ("tenant_id", "task_id", "opened_at"),
    "sources": ("source", "source_epoch", "tenant_id"),
    "cohorts": ("kind", "operation_name", "model", "size_class", "tool", "hour_start"),
}


def measured(stream: Stream) -> dict[str, Rows]:
    """The rows of a partition that consumed the stream."""
    part = started()
    assert part.apply(stream.records) == len(stream.records)
    return last_rows(outputs(part))


def asked(stream: Stream) -> Oracle:
    """The oracle after the stream."""
    return Oracle(WORLD).take(stream.arrivals)


def applied(stream: Stream) -> list[Applied]:
    """Every event that counts, as the oracle sees it."""
    return asked(stream).applied
