"""Usage as watchers take it: what signals look at of each event, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sluice.metering.columnar.usage import Usage
from sluice.metering.quantities import REQUEST_TYPES
from sluice.wire.column_types import Bools, Coded, Ints, Numbers

# Events that say nothing about what is going on now.
UNWATCHED = frozenset({"correction", "gpu_adjustment", "admission"})
OUTPUT_WEIGHT = 2  # load of an output token, an input token has 1 (VTC, OSDI 2024)


class Run(NamedTuple):
    """Usage events in order, without those that are UNWATCHED.

    `time` is broker time (µs) and never falls. `tokens` are input and output, `load` weighs output
    double; `queue_us` as measured; `slow_us` is the time to the first token of a request, or the
    latency of a tool call. `judged`: the event has an slo_outcome, `bad`: one that is not good.
    """

    time: Ints
    tenant: Coded
    pool: Coded
    region: Coded
    cost_pusd: Numbers
    tokens: Ints
    load: Ints
    queue_us: Numbers
    slow_us: Numbers
    tool: Bools
    retry: Bools
    judged: Bools
    bad: Bools

    def part(self, begin: int, end: int) -> Run:
        """The events from `begin` up to `end`, exclusive."""
        cut = slice(begin, end)
        return Run(*(_cut(column, cut) for column in self))


class Watched(NamedTuple):
    """One event of a run, in the order of its columns; None = not known."""

    time: int
    tenant: str
    pool: str | None
    region: str | None
    cost_pusd: int | None
    tokens: int
    load: int
    queue_us: int | None
    slow_us: int | None
    tool: bool
    retry: bool
    judged: bool
    bad: bool


def watched(event: Mapping[str, Any], cost_pusd: int | None, time: int) -> Watched | None:
    """What signals look at of an event at broker time `time`; None where it is not watched."""
    if event["event_type"] in UNWATCHED:
        return None
    request, slo = event["event_type"] in REQUEST_TYPES, event["slo_outcome"]
    inputs, outputs = event["input_tokens"], event["output_tokens"]
    return Watched(
        time, event["tenant_id"], event["pool"], event["region"], cost_pusd,
        tokens=inputs + outputs,
        load=inputs + OUTPUT_WEIGHT * outputs,
        queue_us=event["queue_us"],
        slow_us=event["ttft_us"] if request else event["latency_us"],
        tool=event["event_type"] == "tool",
        retry=_is_retry(event["attempt"], event["attempt_kind"]),
        judged=slo is not None,
        bad=slo is not None and slo != "good",
    )  # fmt: skip


def run_of_usage(usage: Usage, time: Ints, cost_pusd: Numbers) -> Run:
    """The events of columns, with their broker times (µs) and costs, as `watched` takes each."""
    kept = np.flatnonzero(~usage.coded("event_type").where(*UNWATCHED))
    if len(kept) < usage.rows:
        usage, time, cost_pusd = usage.take(kept), time[kept], cost_pusd.take(kept)
    request, slo = usage.requests(), usage.coded("slo_outcome")
    ttft, latency = usage.number("ttft_us"), usage.number("latency_us")
    inputs, outputs = (usage.number(name).value for name in ("input_tokens", "output_tokens"))
    kind, again = usage.coded("attempt_kind"), usage.number("attempt").value > 1
    return Run(
        time,
        tenant=usage.coded("tenant_id"),
        pool=usage.coded("pool"),
        region=usage.coded("region"),
        cost_pusd=cost_pusd,
        tokens=inputs + outputs,
        load=inputs + OUTPUT_WEIGHT * outputs,
        queue_us=usage.number("queue_us"),
        slow_us=Numbers(
            np.where(request, ttft.value, latency.value),
            np.where(request, ttft.known, latency.known),
        ),
        tool=usage.coded("event_type").where("tool"),
        retry=kind.where("retry") | (kind.where(None) & again),
        judged=~slo.where(None),
        bad=~slo.where(None, "good"),
    )


def _is_retry(attempt: int, kind: str | None) -> bool:
    return kind == "retry" or (kind is None and attempt > 1)


def run_of(events: Sequence[Watched]) -> Run:
    """The events side by side."""
    columns = [list(column) for column in zip(*events, strict=True)] or [[] for _ in Run._fields]
    return Run(*(_COLUMNS[name](values) for name, values in zip(Run._fields, columns, strict=True)))


def _cut(column: Any, cut: slice) -> Any:
    if isinstance(column, Coded):
        return Coded(column.codes[cut], column.values)
    return column.take(cut) if isinstance(column, Numbers) else column[cut]


def coded(values: Sequence[str | None]) -> Coded:
    """Texts by their distinct values."""
    distinct = list(dict.fromkeys(values))
    place = {value: code for code, value in enumerate(distinct)}
    return Coded(_ints([place[value] for value in values]), distinct)


def _numbers(values: list[int | None]) -> Numbers:
    known = np.array([value is not None for value in values], dtype=np.bool_)
    return Numbers(_ints([value or 0 for value in values]), known)


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _bools(values: list[bool]) -> Bools:
    return np.array(values, dtype=np.bool_)


_COLUMNS: Mapping[str, Any] = {
    "time": _ints, "tenant": coded, "pool": coded, "region": coded, "cost_pusd": _numbers,
    "tokens": _ints, "load": _ints, "queue_us": _numbers, "slow_us": _numbers, "tool": _bools,
    "retry": _bools, "judged": _bools, "bad": _bools,
}  # fmt: skip
