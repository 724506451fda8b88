"""Columns of tasks and records of them, in both directions, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sluice.metering.baselines import Baseline
from sluice.metering.columnar.task_columns import TASK_STATE
from sluice.metering.columnar.task_run import TaskRun
from sluice.metering.columnar.tasks import TaskTable
from sluice.metering.columnar.usage import Usage
from sluice.metering.tasks import TaskKey
from sluice.wire.codec import encode
from sluice.wire.column_types import Coded, Column, Columns, Items, Texts
from sluice.wire.columns import read_usage
from sluice.wire.layout import Layout

_LAYOUT = Layout(TASK_STATE)


class Added(NamedTuple):
    """An event and what is known about it when it is added to its task."""

    event: Mapping[str, Any]
    time: int
    cost_pusd: int | None = 10
    tail_pusd: int = 0
    q95_pusd: int | None = None


def run_of(added: Sequence[Added], baseline: Baseline | None = None) -> TaskRun:
    """A run of events as the table takes it."""
    read = read_usage([encode("UsageEvent", dict(one.event)) for one in added])
    assert read.whole.all()
    numbers = np.array(
        [(a.time, a.cost_pusd or 0, a.tail_pusd, a.q95_pusd or 0) for a in added], dtype=np.int64
    ).reshape(-1, 4)
    priced = np.array([a.cost_pusd is not None for a in added], dtype=np.bool_)
    known = np.array([a.q95_pusd is not None for a in added], dtype=np.bool_)
    return TaskRun(Usage(read.columns, len(added)), numbers[:, 0], numbers[:, 1], priced,
                   numbers[:, 2], numbers[:, 3], known, baseline)  # fmt: skip


def records_of(columns: Mapping[str, Column | Coded], rows: int) -> list[dict[str, Any]]:
    """The rows of columns, one by one."""
    lists = {name: _values(column, rows) for name, column in columns.items()}
    return [{name: values[row] for name, values in lists.items()} for row in range(rows)]


def _values(column: Column | Coded, rows: int) -> list[Any]:
    if isinstance(column, Coded):
        return [column.values[code] for code in column.codes.tolist()]
    if isinstance(column, Texts):
        return list(column.array().to_pylist())
    if isinstance(column, Items):
        return _lists(column, rows)
    kind = bool if column.is_boolean else int
    pairs = zip(column.value.tolist(), column.known.tolist(), strict=True)
    return [kind(value) if known else None for value, known in pairs]


def _lists(items: Items, rows: int) -> list[list[Any]]:
    found: list[list[Any]] = [[] for _ in range(rows)]
    entries = records_of(items.fields, len(items.row))
    for row, entry in zip(items.row.tolist(), entries, strict=True):
        found[row].append(entry["value"] if items.is_plain else entry)
    return found


def stored_of(table: TaskTable, slots: Any) -> dict[TaskKey, bytes]:
    """Rows of TASK_STATE in Avro, by key."""
    values = _LAYOUT.write(table.state_rows(slots), len(slots))
    return dict(zip(table.state_keys(slots), values, strict=True))


def state_of(values: Sequence[bytes]) -> Columns:
    """Columns of rows of TASK_STATE in Avro."""
    return _LAYOUT.read(list(values))
