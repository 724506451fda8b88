"""Usage as watchers take it: what signals look at of each event, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

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
        retry=event["attempt"] > 1 or event["attempt_kind"] == "retry",
        judged=slo is not None,
        bad=slo is not None and slo != "good",
    )  # fmt: skip


def run_of(events: Sequence[Watched]) -> Run:
    """The events side by side."""
    columns = [list(column) for column in zip(*events, strict=True)] or [[] for _ in Run._fields]
    return Run(*(_COLUMNS[name](values) for name, values in zip(Run._fields, columns, strict=True)))


def _cut(column: Any, cut: slice) -> Any:
    if isinstance(column, Coded):
        return Coded(column.codes[cut], column.values)
    return column.take(cut) if isinstance(column, Numbers) else column[cut]


def _coded(values: list[str | None]) -> Coded:
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
    "time": _ints, "tenant": _coded, "pool": _coded, "region": _coded, "cost_pusd": _numbers,
    "tokens": _ints, "load": _ints, "queue_us": _numbers, "slow_us": _numbers, "tool": _bools,
    "retry": _bools, "judged": _bools, "bad": _bools,
}  # fmt: skip
