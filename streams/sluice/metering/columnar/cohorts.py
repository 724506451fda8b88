"""What the cohorts of one partition cost, hour by hour, as arrays; `cohorts` says the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from sluice.metering.cohorts import (
    COUNTED_TYPES,
    EVENT,
    HOUR_US,
    SIZE_CLASSES,
    SIZES,
    Cohort,
    CohortHour,
)
from sluice.metering.columnar import cohort_kernels as kernels
from sluice.metering.columnar import sparse
from sluice.metering.columnar.buckets import histogram
from sluice.metering.columnar.cohort_columns import key_columns, stored_keys
from sluice.metering.columnar.cohort_kernels import CHANGED, DIRTY, WAYS
from sluice.metering.columnar.columns import whole
from sluice.metering.columnar.sparse import Found
from sluice.metering.columnar.usage import Groups, Usage, grouped
from sluice.metering.quantities import ran
from sluice.wire.column_types import AnyColumn, Bools, Coded, Column, Ints, Items, Numbers

_FIRST_ROWS, _FIRST_ENTRIES = 256, 4096


class CohortTable:
    """The hours of one partition that can still change, and which to publish and to store."""

    def __init__(self, lateness_us: int) -> None:
        self._lateness_us = lateness_us
        self._slots: dict[CohortHour, int] = {}
        self._free: list[int] = list(range(_FIRST_ROWS))
        self._rows = kernels.made(_FIRST_ROWS)
        self._entries = sparse.made(_FIRST_ENTRIES)
        self._gone: dict[CohortHour, None] = {}

    def __len__(self) -> int:
        return len(self._slots)

    # ---- counting

    def add(self, usage: Usage, cost_pusd: Ints, counted: Bools, time: Ints) -> None:
        """Count events at broker times `time` (µs) in their cohorts' hours.

        Of the events that are `counted`, those count that a provider ran and whose hour is not
        over; where an hour's cost would leave 64 bits, one is left out. The hour belongs to all
        tenants: what one of them was billed must not refuse another's.
        """
        occurred = np.minimum(usage.number("occurred_at").value, time)
        hour = occurred - occurred % HOUR_US
        rows = np.flatnonzero(counted & _ran(usage) & ~self._is_over(hour, time))
        if len(rows):
            taken = usage.take(rows)
            groups, keys = _cohorts(taken, hour[rows])
            self._count(keys, groups.of, cost_pusd[rows], taken.number("input_tokens").value)

    def add_one(self, key: CohortHour, cost_pusd: int, input_tokens: int) -> None:
        """Count one event or task of an hour."""
        self._count([key], np.zeros(1, np.int64), np.array([cost_pusd]), np.array([input_tokens]))

    def _count(self, keys: Sequence[CohortHour], of: Ints, cost: Ints, tokens: Ints) -> None:
        slots = self._opened(keys)[of]  # first: it may make other, wider arrays
        self._entries = sparse.with_room(self._entries, 2 * len(of))
        kernels.add(self._rows, self._entries, slots, cost, tokens)

    def _opened(self, keys: Sequence[CohortHour]) -> Ints:
        return np.fromiter(map(self._slot, keys), dtype=np.int64, count=len(keys))

    def _slot(self, key: CohortHour) -> int:
        slot = self._slots.get(key)
        if slot is None:
            if not self._free:
                held = len(self._rows.events)
                self._rows = kernels.wider(self._rows)
                self._free = list(range(held, len(self._rows.events)))
            slot = self._slots[key] = self._free.pop()
            self._gone.pop(key, None)
        return slot

    # ---- publishing and forgetting

    def is_dirty(self) -> bool:
        """Whether an hour is to be published."""
        return bool((self._rows.state & DIRTY).any())

    def take_dirty(self) -> list[CohortHour]:
        """Hours to publish now, in key order; they count as published afterwards."""
        keys = self._with(DIRTY)
        slots = self._opened(keys)
        self._rows.state[slots] = (self._rows.state[slots] & ~np.uint8(DIRTY)) | CHANGED
        return keys

    def hours(self) -> list[CohortHour]:
        """All hours that are here, in order."""
        return sorted(self._slots)

    def columns(
        self, keys: Sequence[CohortHour], source_partition: int, watermark: int, version: int
    ) -> dict[str, AnyColumn]:
        """Hours as columns of CohortRow."""
        ones = np.ones(len(keys), dtype=np.int64)
        return {
            **self._named(keys),
            "source_partition": whole(source_partition * ones),
            "watermark": whole(watermark * ones),
            "version": whole(version * ones),
        }

    def _named(self, keys: Sequence[CohortHour]) -> dict[str, AnyColumn]:
        slots = self._opened(keys)
        return {
            **key_columns(keys),
            "events": whole(self._rows.events[slots]),
            "cost_histogram": histogram(
                sparse.collect_ways(self._rows.cost, slots, self._entries, WAYS)
            ),
            "input_histogram": histogram(
                sparse.collect_ways(self._rows.input, slots, self._entries, WAYS)
            ),
        }

    def evict(self, time: int) -> None:
        """Remove published hours that are over."""
        for key in [k for k in self._slots if time > k.hour_start + HOUR_US + self._lateness_us]:
            if not self._rows.state[self._slots[key]] & DIRTY:
                self.drop(key)
                self._gone[key] = None

    def drop(self, key: CohortHour) -> None:
        """Forget an hour."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            kernels.clear(self._rows, self._entries, slot)
            self._free.append(slot)

    def _is_over(self, hour: Ints, time: Ints) -> Bools:
        over: Bools = time > hour + HOUR_US + self._lateness_us
        return over

    def _with(self, bit: int) -> list[CohortHour]:
        state = self._rows.state
        return sorted(key for key, slot in self._slots.items() if state[slot] & bit)

    # ---- storing

    def is_changed(self) -> bool:
        """Whether `take_changed` would give anything."""
        return bool(self._gone) or bool((self._rows.state & CHANGED).any())

    def take_changed(self) -> tuple[list[CohortHour], list[CohortHour]]:
        """Hours that changed since the last call, and those that are gone."""
        keys, gone = self._with(CHANGED), list(self._gone)
        self._rows.state[self._opened(keys)] &= ~np.uint8(CHANGED)
        self._gone = {}
        return keys, gone

    def state_columns(self, keys: Sequence[CohortHour]) -> dict[str, AnyColumn]:
        """Hours as columns of COHORT_STATE."""
        dirty = self._rows.state[self._opened(keys)] & DIRTY
        return {**self._named(keys), "dirty": whole(dirty.astype(np.int64))}

    def load(self, columns: Mapping[str, Column]) -> None:
        """Take hours as they were stored, one row of COHORT_STATE for each."""
        keys = stored_keys(columns)
        for key in keys:
            self.drop(key)
        slots = self._opened(keys)
        self._rows.events[slots] = cast("Numbers", columns["events"]).value
        self._rows.state[slots] = cast("Numbers", columns["dirty"]).value.astype(np.uint8)
        for heads, name in ((self._rows.cost, "cost"), (self._rows.input, "input")):
            items = cast("Items", columns[f"{name}_histogram"])
            if len(items.row):
                bucket, count, cost = (cast("Numbers", items.fields[field]).value
                                       for field in ("bucket", "count", "cost_pusd"))  # fmt: skip
                self._entries = sparse.with_room(self._entries, len(bucket))
                found = Found(slots[items.row], bucket, count, cost)
                kernels.insert(heads, self._entries, found)


def _ran(usage: Usage) -> Bools:
    types, outcomes = usage.coded("event_type"), usage.coded("outcome")
    reached = [ran({"event_type": "inference", "outcome": name}) for name in outcomes.values]
    found: Bools = types.where(*COUNTED_TYPES) & np.array(reached, dtype=np.bool_)[outcomes.codes]
    return found


def _cohorts(usage: Usage, hour: Ints) -> tuple[Groups, list[CohortHour]]:
    """Events by their cohort and hour, which some groups may share."""
    operation, tool = usage.coded("operation_name"), usage.coded("tool_name")
    models = usage.models()
    is_tool = usage.coded("event_type").where("tool")
    size = np.searchsorted(np.array(SIZES), usage.number("input_tokens").value, side="left")
    size = np.where(is_tool, len(SIZE_CLASSES), size).astype(np.int64)
    columns = (operation.codes, models.codes, tool.codes, size,
               (hour - int(hour.min())) // HOUR_US)  # fmt: skip
    groups = grouped(*columns)
    sizes = (*SIZE_CLASSES, "")
    keys = [
        CohortHour(
            Cohort(EVENT, _at(operation, row), _at(models, row),
                   sizes[int(size[row])], _at(tool, row)),
            int(hour[row]),
        )
        for row in groups.first.tolist()
    ]  # fmt: skip
    return groups, keys


def _at(coded: Coded, row: int) -> str:
    return coded.values[int(coded.codes[row])] or ""
