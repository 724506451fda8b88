"""What the events of a run cost their cohorts, bucket by bucket instead of event by event."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sluice.compiled import compiled
from sluice.metering.cohorts import (
    COUNTED_TYPES,
    EVENT,
    HOUR_US,
    SIZE_CLASSES,
    SIZES,
    Cohort,
    CohortHour,
    Cohorts,
)
from sluice.metering.columnar.usage import Groups, Usage, grouped
from sluice.metering.columnar.window_kernel import bucket_of
from sluice.metering.histogram import Buckets
from sluice.metering.quantities import ran
from sluice.wire.column_types import Bools, Coded, Ints

# Far enough from 64 bits that no sum of a run wraps around.
_ROOM = 2.0**61


class _Buckets(NamedTuple):
    """Counts and costs per group and bucket, ordered by group."""

    group: Ints
    bucket: Ints
    events: Ints
    cost_pusd: Ints


def add(
    cohorts: Cohorts, usage: Usage, cost_pusd: Ints, counted: Bools, time: Ints
) -> list[CohortHour]:
    """Count events at broker times `time` (µs) in their cohorts' hours; which hours changed.

    Of the events that are `counted`, those count that a provider ran and whose hour is not over.
    """
    hour = _hours(usage, time)
    over = time > hour + HOUR_US + cohorts.lateness_us
    rows = np.flatnonzero(counted & _ran(usage) & ~over)
    if not len(rows):
        return []
    taken, cost = usage.take(rows), cost_pusd[rows]
    groups, keys = _cohorts(taken, hour[rows])
    tokens = taken.number("input_tokens").value
    if float(np.abs(cost.astype(np.float64)).sum()) > _ROOM:
        for place, group in enumerate(groups.of.tolist()):
            cohorts.add(keys[group], int(cost[place]), int(tokens[place]))
        return keys
    cost_buckets = _split(_bucketed(groups.of, cost, cost), len(keys))
    input_buckets = _split(_bucketed(groups.of, tokens, np.zeros_like(cost)), len(keys))
    events = np.bincount(groups.of, minlength=len(keys)).tolist()
    for group, key in enumerate(keys):
        if not cohorts.add_many(key, events[group], cost_buckets[group], input_buckets[group]):
            for place in np.flatnonzero(groups.of == group).tolist():
                cohorts.add(key, int(cost[place]), int(tokens[place]))
    return keys


def _hours(usage: Usage, time: Ints) -> Ints:
    occurred = np.minimum(usage.number("occurred_at").value, time)
    hours: Ints = occurred - occurred % HOUR_US
    return hours


def _ran(usage: Usage) -> Bools:
    types, outcomes = usage.coded("event_type"), usage.coded("outcome")
    reached = np.array(
        [ran({"event_type": "inference", "outcome": name}) for name in outcomes.values],
        dtype=np.bool_,
    )
    found: Bools = types.where(*COUNTED_TYPES) & reached[outcomes.codes]
    return found


def _cohorts(usage: Usage, hour: Ints) -> tuple[Groups, list[CohortHour]]:
    operation, tool = usage.coded("operation_name"), usage.coded("tool_name")
    answered, asked = usage.coded("response_model"), usage.coded("request_model")
    is_tool = usage.coded("event_type").where("tool")
    size = np.searchsorted(np.array(SIZES), usage.number("input_tokens").value, side="left")
    size = np.where(is_tool, len(SIZE_CLASSES), size)
    first_hour = int(hour.min())
    columns = (operation.codes, answered.codes, asked.codes, tool.codes, size.astype(np.int64),
               (hour - first_hour) // HOUR_US)  # fmt: skip
    groups = grouped(*columns)
    sizes = (*SIZE_CLASSES, "")
    keys = [
        CohortHour(
            Cohort(EVENT, _at(operation, row), _at(answered, row) or _at(asked, row),
                   sizes[int(size[row])], _at(tool, row)),
            int(hour[row]),
        )
        for row in groups.first.tolist()
    ]  # fmt: skip
    return groups, keys


def _at(coded: Coded, row: int) -> str:
    return coded.values[int(coded.codes[row])] or ""


def _bucketed(group: Ints, value: Ints, cost_pusd: Ints) -> _Buckets:
    bucket = _buckets_of(value)
    order = np.lexsort((bucket, group))
    group, bucket = group[order], bucket[order]
    begins = np.flatnonzero(np.r_[True, (group[1:] != group[:-1]) | (bucket[1:] != bucket[:-1])])
    count = np.diff(np.r_[begins, len(group)])
    cost = np.add.reduceat(cost_pusd[order], begins)
    return _Buckets(group[begins], bucket[begins], count.astype(np.int64), cost)


@compiled
def _buckets_of(value: Ints) -> Ints:
    buckets = np.empty(len(value), dtype=np.int64)
    for row in range(len(value)):
        buckets[row] = bucket_of(value[row])
    return buckets


def _split(found: _Buckets, groups: int) -> list[Buckets]:
    split: list[Buckets] = [{} for _ in range(groups)]
    columns = (column.tolist() for column in found)
    for group, bucket, count, cost in zip(*columns, strict=True):
        split[group][bucket] = [count, cost]
    return split
