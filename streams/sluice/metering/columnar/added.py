"""Labelled events put together for the loop that adds them to window rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sluice.metering.columnar.causes import Splits
from sluice.metering.columnar.columns import ends
from sluice.metering.columnar.names import Names
from sluice.metering.columnar.priced import Priced
from sluice.metering.columnar.sparse import NOTHING
from sluice.metering.columnar.task_run import TaskEffects
from sluice.metering.columnar.usage import Usage
from sluice.metering.columnar.window_layout import Added
from sluice.metering.quantities import MEASURED, SERVED, TOKENS
from sluice.wire.column_types import Bools, Coded, Ints, Texts

_LABELS = ("outcome", "slo_outcome", "rollback_reason")


def added(
    names: Names, slots: Ints, usage: Usage, found: Priced, splits: Splits, effects: TaskEffects,
    clamped: Bools,
) -> Added:  # fmt: skip
    """Events of a run, each to be added to the row of its slot; names get numbers of `names`."""
    measured = [usage.number(name) for name in MEASURED]
    original, parts = usage.number("original_cost_pusd"), found.parts
    flags, flag_end = _flags(names, usage)
    return Added(
        slots, _stacked([usage.number(name).value for name in TOKENS]),
        _stacked([column.value for column in measured]),
        np.stack([column.known for column in measured]),
        found.cost_pusd, found.priced, usage.coded("event_type").where("correction"),
        original.value, original.known, found.bands, splits.overhead, splits.tail_by_cause,
        effects.task_tail_pusd, effects.task_tail_known, usage.requests(), _good(usage), clamped,
        found.limits.packaged, found.limits.known,
        _stacked([_numbers(names, usage.coded(name)) for name in _LABELS]),
        ends(parts.row, usage.rows), parts.key, parts.quantity, parts.cost_pusd, flag_end, flags,
    )  # fmt: skip


def _stacked(columns: Sequence[Ints]) -> Ints:
    return np.ascontiguousarray(np.stack(columns))


def _good(usage: Usage) -> Bools:
    """Whether events served their users, as their SLO says, else their outcome."""
    slo = usage.coded("slo_outcome")
    served = usage.coded("outcome").where(*SERVED)
    return np.where(slo.where(None), served, slo.where("good"))


def _numbers(names: Names, coded: Coded) -> Ints:
    ids = [NOTHING if value is None else names.number(value) for value in coded.values]
    return np.array(ids, dtype=np.int64)[coded.codes]


def _flags(names: Names, usage: Usage) -> tuple[Ints, Ints]:
    items = usage.items("risk_flags")
    if not len(items.row):
        return np.zeros(0, dtype=np.int64), np.zeros(usage.rows, dtype=np.int64)
    texts = items.fields["value"]
    coded = texts.coded() if isinstance(texts, Texts) else Coded(items.row, [])
    return _numbers(names, coded), ends(items.row, usage.rows)
