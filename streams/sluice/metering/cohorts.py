"""Cohorts: events that ought to cost alike, and what each of them cost hour by hour.

A cohort is an operation, a model, a class of input size and a tool. The tenant is left out on
purpose, so that one who is always expensive is not their own norm. Tasks have cohorts by agent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from sluice.metering import histogram
from sluice.metering.histogram import Buckets
from sluice.metering.quantities import REQUEST_TYPES

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


class CohortSums(msgspec.Struct):
    """What a cohort cost."""

    events: int = 0
    cost: Buckets = msgspec.field(default_factory=dict)
    input: Buckets = msgspec.field(default_factory=dict)


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
