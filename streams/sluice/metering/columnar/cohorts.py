"""What the cohorts of one partition cost, hour by hour, as arrays; `cohorts` says the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from sluice.compiled import compiled
from sluice.metering.cohorts import (
    COUNTED_TYPES,
    EVENT,
    HOUR_US,
    SIZE_CLASSES,
    SIZES,
    Cohort,
    CohortHour,
)
from sluice.metering.columnar import sparse
from sluice.metering.columnar.sparse import NOTHING, Entries, Found, Links
from sluice.metering.columnar.texts import coded_of
from sluice.metering.columnar.usage import Groups, Usage, grouped
from sluice.metering.columnar.window_kernel import bucket_of
from sluice.metering.columnar.window_rows import histogram, whole
from sluice.metering.quantities import ran
from sluice.money import INT64_MAX
from sluice.wire.column_types import AnyColumn, Bools, Coded, Column, Ints, Items, Numbers, Texts

_FIRST_ROWS, _FIRST_ENTRIES = 256, 4096
_DIRTY, _CHANGED = 1, 2
_MOST = INT64_MAX
_WAYS = 16  # chains of one histogram, which may have hundreds of buckets
_TEXTS = Cohort._fields


class _Rows(NamedTuple):
    """Rows by slot: how many events, and the heads of their two histograms."""

    events: Ints
    state: npt.NDArray[np.uint8]
    cost: Links
    input: Links


class CohortTable:
    """The hours of one partition that can still change, and which to publish and to store."""

    def __init__(self, lateness_us: int) -> None:
        self._lateness_us = lateness_us
        self._slots: dict[CohortHour, int] = {}
        self._free: list[int] = list(range(_FIRST_ROWS))
        self._rows = _made(_FIRST_ROWS)
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
        _add(self._rows, self._entries, slots, cost, tokens)

    def _opened(self, keys: Sequence[CohortHour]) -> Ints:
        return np.fromiter(map(self._slot, keys), dtype=np.int64, count=len(keys))

    def _slot(self, key: CohortHour) -> int:
        slot = self._slots.get(key)
        if slot is None:
            if not self._free:
                held = len(self._rows.events)
                self._rows = _wider(self._rows)
                self._free = list(range(held, len(self._rows.events)))
            slot = self._slots[key] = self._free.pop()
            self._gone.pop(key, None)
        return slot

    # ---- publishing and forgetting

    def is_dirty(self) -> bool:
        """Whether an hour is to be published."""
        return bool((self._rows.state & _DIRTY).any())

    def take_dirty(self) -> list[CohortHour]:
        """Hours to publish now, in key order; they count as published afterwards."""
        keys = self._with(_DIRTY)
        slots = self._opened(keys)
        self._rows.state[slots] = (self._rows.state[slots] & ~np.uint8(_DIRTY)) | _CHANGED
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
                sparse.collect_ways(self._rows.cost, slots, self._entries, _WAYS)
            ),
            "input_histogram": histogram(
                sparse.collect_ways(self._rows.input, slots, self._entries, _WAYS)
            ),
        }

    def evict(self, time: int) -> None:
        """Remove published hours that are over."""
        for key in [k for k in self._slots if time > k.hour_start + HOUR_US + self._lateness_us]:
            if not self._rows.state[self._slots[key]] & _DIRTY:
                self.drop(key)
                self._gone[key] = None

    def drop(self, key: CohortHour) -> None:
        """Forget an hour."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            _clear(self._rows, self._entries, slot)
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
        return bool(self._gone) or bool((self._rows.state & _CHANGED).any())

    def take_changed(self) -> tuple[list[CohortHour], list[CohortHour]]:
        """Hours that changed since the last call, and those that are gone."""
        keys, gone = self._with(_CHANGED), list(self._gone)
        self._rows.state[self._opened(keys)] &= ~np.uint8(_CHANGED)
        self._gone = {}
        return keys, gone

    def state_columns(self, keys: Sequence[CohortHour]) -> dict[str, AnyColumn]:
        """Hours as columns of COHORT_STATE."""
        dirty = self._rows.state[self._opened(keys)] & _DIRTY
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
                _insert(heads, self._entries, found)


_HISTOGRAM: dict[str, Any] = {"type": "array", "items": {
    "type": "record", "name": "StoredBucket",
    "fields": [{"name": name, "type": "long"} for name in ("bucket", "count", "cost_pusd")],
}}  # fmt: skip
COHORT_KEY: dict[str, Any] = {
    "type": "record", "name": "CohortKey",
    "fields": [*({"name": name, "type": "string"} for name in _TEXTS),
               {"name": "hour_start", "type": "long"}],
}  # fmt: skip
COHORT_STATE: dict[str, Any] = {
    "type": "record", "name": "CohortState",
    "fields": [*COHORT_KEY["fields"],
               *({"name": name, "type": "long"} for name in ("events", "dirty")),
               *({"name": name, "type": _HISTOGRAM}
                 for name in ("cost_histogram", "input_histogram"))],
}  # fmt: skip


def key_columns(keys: Sequence[CohortHour]) -> dict[str, AnyColumn]:
    """Identities of hours as columns of COHORT_KEY."""
    texts = {name: coded_of([getattr(key.cohort, name) for key in keys]) for name in _TEXTS}
    starts = np.array([key.hour_start for key in keys], dtype=np.int64)
    return {**texts, "hour_start": whole(starts)}


def stored_keys(columns: Mapping[str, Column]) -> list[CohortHour]:
    """Hours whose identities are in columns of COHORT_KEY or COHORT_STATE."""
    coded = [cast("Texts", columns[name]).coded() for name in _TEXTS]
    names = [[of.values[code] or "" for code in of.codes.tolist()] for of in coded]
    starts = cast("Numbers", columns["hour_start"]).value.tolist()
    return [CohortHour(Cohort(*texts), start) for *texts, start in zip(*names, starts, strict=True)]


def _made(capacity: int) -> _Rows:
    cost, tokens = (np.full(_WAYS * capacity, NOTHING, dtype=np.int32) for _ in range(2))
    return _Rows(np.zeros(capacity, np.int64), np.zeros(capacity, np.uint8), cost, tokens)


def _wider(rows: _Rows) -> _Rows:
    held = len(rows.events)
    wider = _made(2 * held)
    wider.events[:held], wider.state[:held] = rows.events, rows.state
    wider.cost[: len(rows.cost)], wider.input[: len(rows.input)] = rows.cost, rows.input
    return wider


@compiled
def _add(rows: _Rows, entries: Entries, slots: Ints, cost: Ints, tokens: Ints) -> None:
    for n in range(len(slots)):
        slot, bucket = slots[n], bucket_of(cost[n])
        way = slot * _WAYS + (bucket & (_WAYS - 1))
        if sparse.second_of(rows.cost, way, entries, bucket) > _MOST - cost[n]:
            continue
        rows.events[slot] += 1
        rows.state[slot] |= _DIRTY | _CHANGED
        sparse.add(rows.cost, way, entries, bucket, 1, cost[n])
        bucket = bucket_of(tokens[n])
        way = slot * _WAYS + (bucket & (_WAYS - 1))
        sparse.add(rows.input, way, entries, bucket, 1, 0)


@compiled
def _clear(rows: _Rows, entries: Entries, slot: int) -> None:
    sparse.free_ways(rows.cost, slot, entries, _WAYS)
    sparse.free_ways(rows.input, slot, entries, _WAYS)
    rows.events[slot] = rows.state[slot] = 0


@compiled
def _insert(heads: Links, entries: Entries, found: Found) -> None:
    for n in range(len(found.row)):
        key, first, second = found.key[n], found.first[n], found.second[n]
        way = found.row[n] * _WAYS + (key & (_WAYS - 1))
        sparse.insert(heads, way, entries, key, first, second)


def _ran(usage: Usage) -> Bools:
    types, outcomes = usage.coded("event_type"), usage.coded("outcome")
    reached = [ran({"event_type": "inference", "outcome": name}) for name in outcomes.values]
    found: Bools = types.where(*COUNTED_TYPES) & np.array(reached, dtype=np.bool_)[outcomes.codes]
    return found


def _cohorts(usage: Usage, hour: Ints) -> tuple[Groups, list[CohortHour]]:
    """Events by their cohort and hour, which some groups may share."""
    operation, tool = usage.coded("operation_name"), usage.coded("tool_name")
    answered, asked = usage.coded("response_model"), usage.coded("request_model")
    is_tool = usage.coded("event_type").where("tool")
    size = np.searchsorted(np.array(SIZES), usage.number("input_tokens").value, side="left")
    size = np.where(is_tool, len(SIZE_CLASSES), size).astype(np.int64)
    columns = (operation.codes, answered.codes, asked.codes, tool.codes, size,
               (hour - int(hour.min())) // HOUR_US)  # fmt: skip
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
