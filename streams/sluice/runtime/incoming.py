"""A chunk of consumed records: usage events as columns, all else one by one, and its runs.

A run is usage within one second of the partition's time, with no other record between it: nothing
that depends on time or on an activation changes within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sluice.errors import WireError
from sluice.metering.columnar.usage import Usage, whole_usage
from sluice.metering.validate import LISTS, MAX_LIST_ITEMS
from sluice.runtime.outputs import Record
from sluice.wire.codec import MAX_VALUE_BYTES, decode, encode_row
from sluice.wire.column_types import Bools, Ints
from sluice.wire.columns import read_usage

SECOND_US = 1_000_000
_USAGE = "UsageEvent"

Decoded = tuple[str, dict[str, Any]]


class Run(NamedTuple):
    """Consecutive usage events: `time` is the partition's (µs) at each of them.

    `decoded` keeps by offset what was decoded one by one.
    """

    records: Sequence[Record]
    usage: Usage
    time: Ints
    decoded: dict[int, dict[str, Any]]

    def event(self, row: int) -> dict[str, Any]:
        """All fields of one event."""
        record = self.records[row]
        found = self.decoded.get(record.offset)
        if found is None:
            found = self.decoded[record.offset] = decode(record.value or b"")[1]
        return found

    def take(self, rows: Ints) -> Run:
        """Some of the events, in ascending order."""
        if len(rows) == len(self.records):
            return self
        records = [self.records[row] for row in rows.tolist()]
        return Run(records, self.usage.take(rows), self.time[rows], self.decoded)

    @property
    def offsets(self) -> Ints:
        """Where each event stands in its partition."""
        return np.array([record.offset for record in self.records], dtype=np.int64)


class Incoming:
    """Records in their order; `time` is the partition's (µs) before them.

    `others` are records that are no usage events, `faults` what cannot be read, both by place.
    """

    def __init__(self, records: Sequence[Record], time: int) -> None:
        self.records = records
        stamps = np.array([record.timestamp for record in records], dtype=np.int64) * 1000
        self.time: Ints = np.maximum.accumulate(np.maximum(stamps, time))
        self.others: dict[int, Decoded] = {}
        self.faults: dict[int, WireError] = {}
        self._values = [record.value or b"" for record in records]
        self._usage, self._places = self._columns()

    def _read(self, place: int, value: bytes) -> bytes | None:
        """A usage event as today's version writes it; anything else is put where it belongs."""
        try:
            name, fields = decode(value)
        except WireError as error:
            self.faults[place] = error
            return None
        if name == _USAGE:
            return encode_row(_USAGE, _bounded(fields))
        self.others[place] = name, fields
        return None

    def _columns(self) -> tuple[Usage, Ints]:
        """Usage as columns; what the columnar reader does not take is written anew for it."""
        columns = read_usage(self._values)
        taken = columns.whole.copy()
        taken[[n for n, value in enumerate(self._values) if len(value) > MAX_VALUE_BYTES]] = False
        for place in np.flatnonzero(~taken).tolist():
            again = self._read(place, self._values[place])
            self._values[place] = again or b""
            taken[place] = again is not None
        if not columns.whole[taken].all():
            columns = read_usage(self._values)
        usage, places = whole_usage(columns)
        return usage, places

    def ends(self) -> Ints:
        """Places at which a run, or a single record of another kind, ends."""
        slots = self.time // SECOND_US
        alone = np.zeros(len(slots) + 1, dtype=np.bool_)
        alone[list(self.others)] = True
        border: Bools = (slots[1:] != slots[:-1]) | alone[1:-1] | alone[:-2]
        return np.append(np.flatnonzero(border) + 1, len(slots))

    def run(self, begin: int, end: int) -> Run:
        """The usage events from one place to another, faults left out."""
        first, last = np.searchsorted(self._places, [begin, end])
        places = self._places[first:last]
        records = [self.records[place] for place in places.tolist()]
        usage = self._usage
        if last - first < usage.rows:
            usage = usage.take(np.arange(first, last))
        return Run(records, usage, self.time[places], {})


def _bounded(fields: dict[str, Any]) -> dict[str, Any]:
    """An event whose lists are too long stays invalid with fewer entries."""
    return {
        name: value[: MAX_LIST_ITEMS + 1] if name in LISTS else value
        for name, value in fields.items()
    }
