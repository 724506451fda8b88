"""Cohorts: events that ought to cost alike, and what each of them cost hour by hour.

A cohort is an operation, a model, a class of input size and a tool. The tenant is left out on
purpose, so that one who is always expensive is not their own norm. Tasks have cohorts by agent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from sluice.metering import histogram
from sluice.metering.histogram import Buckets
from sluice.metering.quantities import REQUEST_TYPES, ran
from sluice.money import INT64_MAX

HOUR_US = 3_600_000_000
# Upper bounds of input_tokens, powers of four; a class holds requests of comparable length.
SIZES = (1024, 4096, 16_384, 65_536, 262_144)
SIZE_CLASSES = ("1k", "4k", "16k", "64k", "256k", "max")
EVENT, TASK = "event", "task"
COUNTED_TYPES = REQUEST_TYPES | {"tool"}


class Cohort(NamedTuple):
    """Identity of a cohort; `size_class` and `tool` are '' where they do not apply."""

    kind: str
    operation_name: str
    model: str
    size_class: str
    tool: str


class CohortHour(NamedTuple):
    """A cohort in one hour of event time, which begins at `hour_start` (µs UTC)."""

    cohort: Cohort
    hour_start: int


class CohortSums(msgspec.Struct, array_like=True):
    """What a cohort cost in an hour; `dirty` rows wait to be published."""

    events: int = 0
    cost: Buckets = msgspec.field(default_factory=dict)
    input: Buckets = msgspec.field(default_factory=dict)
    dirty: bool = False


def size_class(input_tokens: int) -> str:
    """The class of a request's input length."""
    return SIZE_CLASSES[bisect_left(SIZES, input_tokens)]


def model_of(event: Mapping[str, Any]) -> str:
    """The model that rows name: the one that answered, else the one asked for."""
    model: str = event["response_model"] or event["request_model"]
    return model


def cohort_of(event: Mapping[str, Any]) -> Cohort:
    """The cohort of a usage event."""
    tool = event["tool_name"] or ""
    size = "" if event["event_type"] == "tool" else size_class(event["input_tokens"])
    return Cohort(EVENT, event["operation_name"], model_of(event), size, tool)


def task_cohort(name: str) -> Cohort:
    """The cohort of tasks of one agent, else workflow."""
    return Cohort(TASK, "", "", "", name)


def is_counted(event: Mapping[str, Any], cost_pusd: int | None) -> bool:
    """Whether an event says something about what its cohort normally costs."""
    return cost_pusd is not None and ran(event, COUNTED_TYPES)


class Cohorts:
    """The hours of one partition that can still change, and which are to be published."""

    def __init__(self, lateness_us: int) -> None:
        self.lateness_us = lateness_us
        self.rows: dict[CohortHour, CohortSums] = {}

    def hour_of(self, occurred_at: int, time: int) -> int | None:
        """The hour that an event counts in at broker time `time`; None where that is over."""
        hour = occurred_at - occurred_at % HOUR_US
        return None if self._over(hour, time) else hour

    def add(self, key: CohortHour, cost_pusd: int, input_tokens: int) -> None:
        """Count one event or task; where the hour's cost would leave 64 bits, it is left out.

        The hour belongs to all tenants: what one of them was billed must not refuse another's.
        """
        sums = self.rows.setdefault(key, CohortSums())
        if not histogram.has_room(sums.cost, cost_pusd, cost_pusd):
            return
        sums.events += 1
        histogram.add(sums.cost, cost_pusd, cost_pusd)
        histogram.add(sums.input, input_tokens, 0)
        sums.dirty = True

    def add_many(self, key: CohortHour, events: int, cost: Buckets, tokens: Buckets) -> bool:
        """Count events by their buckets, all of them or, where costs leave no room, none."""
        sums = self.rows.setdefault(key, CohortSums())
        for bucket, (_, cost_pusd) in cost.items():
            if abs(sums.cost.get(bucket, (0, 0))[1] + cost_pusd) > INT64_MAX:
                return False
        sums.events += events
        histogram.merge(sums.cost, cost)
        histogram.merge(sums.input, tokens)
        sums.dirty = True
        return True

    def take_dirty(self) -> Iterator[tuple[CohortHour, CohortSums]]:
        """Rows to publish now, in key order; they count as published afterwards."""
        for key in sorted(key for key, sums in self.rows.items() if sums.dirty):
            self.rows[key].dirty = False
            yield key, self.rows[key]

    def evict(self, time: int) -> list[CohortHour]:
        """Remove published rows of hours that are over and return their keys."""
        done = [
            key
            for key, sums in self.rows.items()
            if not sums.dirty and self._over(key.hour_start, time)
        ]
        for key in done:
            del self.rows[key]
        return done

    def _over(self, hour_start: int, time: int) -> bool:
        return time > hour_start + HOUR_US + self.lateness_us


def row_record(
    key: CohortHour, sums: CohortSums, source_partition: int, watermark: int, version: int
) -> dict[str, Any]:
    """A CohortRow as it goes on the wire."""
    return {
        **key.cohort._asdict(),
        "hour_start": key.hour_start,
        "source_partition": source_partition,
        "events": sums.events,
        "cost_histogram": histogram.to_wire(sums.cost),
        "input_histogram": histogram.to_wire(sums.input),
        "watermark": watermark,
        "version": version,
    }


def merged(rows: Iterable[Mapping[str, Any]]) -> dict[Cohort, CohortSums]:
    """Sums per cohort over CohortRows of any hours and partitions, in any order."""
    found: dict[Cohort, CohortSums] = {}
    for row in rows:
        cohort = Cohort(*(row[name] for name in Cohort._fields))
        sums = found.setdefault(cohort, CohortSums())
        sums.events += row["events"]
        histogram.merge(sums.cost, histogram.from_wire(row["cost_histogram"]))
        histogram.merge(sums.input, histogram.from_wire(row["input_histogram"]))
    return found
