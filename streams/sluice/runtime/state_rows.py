"""Window rows, tasks and cohorts as the changelog keeps them: many at a time.

They are Avro datums of schemas of their own, which nobody but the meter reads; the layout version
of the checkpoint changes with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from sluice.metering.columnar import window_state
from sluice.metering.columnar.cohort_columns import (
    COHORT_KEY,
    COHORT_STATE,
    key_columns,
    stored_keys,
)
from sluice.metering.columnar.cohorts import CohortTable
from sluice.metering.columnar.columns import coded_of
from sluice.metering.columnar.task_columns import TASK_STATE
from sluice.metering.columnar.tasks import TaskTable
from sluice.metering.columnar.window_layout import KEY_NAMES
from sluice.metering.columnar.window_state import WINDOW_KEY, WINDOW_STATE
from sluice.metering.columnar.windows import WindowTable
from sluice.metering.tasks import TaskKey
from sluice.wire.column_types import AnyColumn, Coded, Column, Texts
from sluice.wire.layout import Layout

_TASK_FIELDS = TaskKey._fields
_TASK_KEY_SCHEMA: dict[str, Any] = {
    "type": "record", "name": "TaskKey",
    "fields": [{"name": name, "type": "string"} for name in _TASK_FIELDS],
}  # fmt: skip
_WINDOW_KEY, _WINDOW_STATE = Layout(WINDOW_KEY), Layout(WINDOW_STATE)
_COHORT_KEY, _COHORT_STATE = Layout(COHORT_KEY), Layout(COHORT_STATE)
_TASK_KEY, _TASK_STATE = Layout(_TASK_KEY_SCHEMA), Layout(TASK_STATE)


def load_windows(windows: WindowTable, rows: Mapping[bytes, bytes]) -> None:
    """Take rows by their identities, one for each; an empty value removes a row."""
    kept, gone = _kept_and_gone(rows)
    if kept:
        window_state.load(windows, _WINDOW_STATE.read(kept).columns, len(kept))
    if gone:
        window_state.drop(windows, _WINDOW_KEY.read(gone).columns)


def load_tasks(tasks: TaskTable, rows: Mapping[bytes, bytes]) -> None:
    """Take tasks by their identities, one for each; an empty value removes a task."""
    kept, gone = _kept_and_gone(rows)
    if kept:
        tasks.load(_TASK_STATE.read(kept))
    if gone:
        for key in _task_keys(_TASK_KEY.read(gone).columns):
            tasks.drop(key)


def _kept_and_gone(rows: Mapping[bytes, bytes]) -> tuple[list[bytes], list[bytes]]:
    """Values of rows that are there, identities of those that are removed."""
    return [v for v in rows.values() if v], [key for key, value in rows.items() if not value]


def load_cohorts(cohorts: CohortTable, rows: Mapping[bytes, bytes]) -> None:
    """Take hours by their identities, one for each; an empty value removes an hour."""
    kept, gone = _kept_and_gone(rows)
    if kept:
        cohorts.load(_COHORT_STATE.read(kept).columns)
    if gone:
        for key in stored_keys(_COHORT_KEY.read(gone).columns):
            cohorts.drop(key)


def changed_windows(windows: WindowTable) -> Iterator[tuple[bytes, bytes | None]]:
    """Rows that changed since the last call by their identities; None removes a row."""
    slots, gone = windows.take_changed()
    # First: a row that is here again comes after the tombstone of the one before it.
    if gone:
        yield from _removed(_WINDOW_KEY.write(window_state.key_columns(gone), len(gone)))
    if len(slots):
        yield from stored_windows(window_state.state_columns(windows, slots), len(slots))


def stored_windows(
    columns: Mapping[str, AnyColumn], rows: int
) -> Iterator[tuple[bytes, bytes | None]]:
    """Rows of WINDOW_STATE by their identities."""
    names = {name: columns[name] for name in (*KEY_NAMES, "window_start")}
    keys = _WINDOW_KEY.write(names, rows)
    yield from zip(keys, _WINDOW_STATE.write(columns, rows), strict=True)


def changed_tasks(tasks: TaskTable) -> Iterator[tuple[bytes, bytes | None]]:
    """Tasks that changed since the last call by their identities; None removes a task."""
    slots, gone = tasks.take_changed()
    if gone:
        yield from _removed(_TASK_KEY.write(_task_columns(gone), len(gone)))
    if len(slots):
        rows = tasks.state_rows(slots)
        keys = _TASK_KEY.write({name: rows[name] for name in _TASK_FIELDS}, len(slots))
        yield from zip(keys, _TASK_STATE.write(rows, len(slots)), strict=True)


def changed_cohorts(cohorts: CohortTable) -> Iterator[tuple[bytes, bytes | None]]:
    """Hours that changed since the last call by their identities; None removes an hour."""
    keys, gone = cohorts.take_changed()
    if gone:
        yield from _removed(_COHORT_KEY.write(key_columns(gone), len(gone)))
    if keys:
        identities = _COHORT_KEY.write(key_columns(keys), len(keys))
        values = _COHORT_STATE.write(cohorts.state_columns(keys), len(keys))
        yield from zip(identities, values, strict=True)


def _removed(identities: Iterable[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
    return ((identity, None) for identity in identities)


def _task_columns(keys: Sequence[TaskKey]) -> dict[str, Coded]:
    return {name: coded_of([getattr(key, name) for key in keys]) for name in _TASK_FIELDS}


def _task_keys(columns: Mapping[str, Column]) -> list[TaskKey]:
    coded = [cast("Texts", columns[name]).coded() for name in _TASK_FIELDS]
    tenants, tasks = ([of.values[code] or "" for code in of.codes.tolist()] for of in coded)
    return [TaskKey(*pair) for pair in zip(tenants, tasks, strict=True)]
