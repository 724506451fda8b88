"""Labelled events for a table of window rows, and its rows one by one, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sluice.metering.causes import CAUSES
from sluice.metering.columnar.added import added
from sluice.metering.columnar.causes import Splits
from sluice.metering.columnar.labels import Limits
from sluice.metering.columnar.priced import Priced
from sluice.metering.columnar.rating import Parts
from sluice.metering.columnar.task_run import TaskEffects
from sluice.metering.columnar.usage import Usage, whole_usage
from sluice.metering.columnar.window_layout import Added, Keys
from sluice.metering.columnar.window_rows import CLASSES, row_columns
from sluice.metering.columnar.windows import WindowTable
from sluice.metering.labels import Bands, Thresholds
from sluice.metering.rating import Part
from sluice.metering.windows import FUTURE_US, WindowKey
from sluice.wire.codec import decode, encode
from sluice.wire.column_types import Bools, Ints
from sluice.wire.columns import read_usage
from sluice.wire.layout import layout
from tests.builders import NOW

NO_SHARES = (0,) * len(CAUSES)


class Labelled(NamedTuple):
    """An event and what is known about it when it is added; without bands all of it is body.

    `causes` and `tails` have an amount for each cause; without causes all is the first pass.
    """

    event: Mapping[str, Any]
    time: int = NOW
    cost_pusd: int | None = 5
    parts: tuple[Part, ...] = ()
    bands: Bands | None = None
    causes: tuple[int, ...] | None = None
    tails: tuple[int, ...] = NO_SHARES
    thresholds: Thresholds | None = None
    task_tail_pusd: int | None = None
    unprotected: bool = False


def usage_of(events: Sequence[Mapping[str, Any]]) -> Usage:
    """Events as columns."""
    read = read_usage([encode("UsageEvent", dict(event)) for event in events])
    assert read.whole.all()
    return whole_usage(read)[0]


def ints(*values: int) -> Ints:
    """A column of numbers."""
    return np.array(values, dtype=np.int64)


def keys_of(table: WindowTable, items: Sequence[Labelled]) -> Keys:
    """The rows that the events belong to."""
    time = ints(*(one.time for one in items))
    unprotected = np.array([one.unprotected for one in items], dtype=np.bool_)
    return table.keys_of(usage_of([one.event for one in items]), time, unprotected)


def run_of(table: WindowTable, items: Sequence[Labelled], slots: Ints) -> Added:
    """The events, each to be added to the row in its slot."""
    usage = usage_of([one.event for one in items])
    time = ints(*(one.time for one in items))
    clamped = usage.number("occurred_at").value > time + FUTURE_US
    return added(
        table.names, slots, usage, _priced(items), _splits(items), _effects(items), clamped
    )


def add(
    table: WindowTable, *items: Labelled, book: str | None = "book", baseline: str | None = "base"
) -> list[WindowKey]:
    """Add events as one run; the keys of their rows."""
    slots = table.open(keys_of(table, items))
    table.add(run_of(table, items, slots), book, baseline)
    return table.keys(slots)


def check(table: WindowTable, item: Labelled, task_tail_pusd: int = 0) -> None:
    """Raise OverflowError where an event does not fit."""
    slots = table.find(keys_of(table, [item]))
    table.check(run_of(table, [item], slots), task_tail_pusd)


def rows_of(
    table: WindowTable, slots: Ints | None = None, time: int = NOW, version: int = 1
) -> dict[WindowKey, dict[str, Any]]:
    """WindowRows of some slots, or of all, as they are published."""
    slots = table.slots() if slots is None else slots
    values = layout("WindowRow").write(row_columns(table, slots, time, version), len(slots))
    return dict(zip(table.keys(slots), (decode(v)[1] for v in values), strict=True))


def row_of(table: WindowTable) -> dict[str, Any]:
    """The only row as it would be published."""
    (row,) = rows_of(table).values()
    return row


def _priced(items: Sequence[Labelled]) -> Priced:
    parts = [
        (n, CLASSES.index(part.key), part.quantity, part.cost_pusd)
        for n, one in enumerate(items)
        for part in one.parts
    ]
    bands = [one.bands or Bands(one.cost_pusd or 0, 0, 0) for one in items]
    return Priced(
        ints(*(one.cost_pusd or 0 for one in items)), _known(one.cost_pusd for one in items),
        Parts(*np.array(parts, dtype=np.int64).reshape(-1, 4).T), _limits(items),
        np.array(bands, dtype=np.int64).reshape(-1, 3).T,
    )  # fmt: skip


def _limits(items: Sequence[Labelled]) -> Limits:
    limits = [one.thresholds or Thresholds(0, 0) for one in items]
    return Limits(
        ints(*(one.q50_pusd for one in limits)), ints(*(one.q95_pusd for one in limits)),
        _known(one.thresholds for one in items),
        np.array([one.packaged for one in limits], dtype=np.bool_), np.ones(len(items), np.bool_),
    )  # fmt: skip


def _splits(items: Sequence[Labelled]) -> Splits:
    whole = [one.causes or (one.cost_pusd or 0, *NO_SHARES[1:]) for one in items]
    tails = [one.tails for one in items]
    columns = (np.array(of, np.int64).reshape(-1, len(CAUSES)).T for of in (whole, tails))
    return Splits(*map(np.ascontiguousarray, columns))


def _effects(items: Sequence[Labelled]) -> TaskEffects:
    nothing = np.zeros(len(items), dtype=np.int64)
    tails = ints(*(one.task_tail_pusd or 0 for one in items))
    known = _known(one.task_tail_pusd for one in items)
    return TaskEffects(nothing.astype(np.bool_), nothing, nothing, tails, known)


def _known(values: Any) -> Bools:
    return np.array([value is not None for value in values], dtype=np.bool_)
