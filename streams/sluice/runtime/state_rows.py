"""Window rows and tasks as the changelog keeps them: written and read many at a time.

Both are Avro datums of schemas of their own, which nobody but the meter reads; the layout version
of the checkpoint changes with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from sluice.metering.columnar import window_state
from sluice.metering.columnar.task_columns import TASK_STATE
from sluice.metering.columnar.tasks import TaskTable
from sluice.metering.columnar.window_rows import identities
from sluice.metering.columnar.window_state import WINDOW_KEY, WINDOW_STATE, coded_of
from sluice.metering.columnar.windows import WindowTable
from sluice.metering.tasks import TaskKey
from sluice.wire.column_types import Coded, Column, Texts
from sluice.wire.layout import Layout

_TASK_FIELDS = TaskKey._fields
_TASK_KEY_SCHEMA: dict[str, Any] = {
    "type": "record", "name": "TaskKey",
    "fields": [{"name": name, "type": "string"} for name in _TASK_FIELDS],
}  # fmt: skip
_WINDOW_KEY, _WINDOW_STATE = Layout(WINDOW_KEY), Layout(WINDOW_STATE)
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


def changed_windows(windows: WindowTable) -> Iterator[tuple[bytes, bytes | None]]:
    """Rows that changed since the last call by their identities; None removes a row."""
    slots, gone = windows.take_changed()
    # First: a row that is here again comes after the tombstone of the one before it.
    for key in _WINDOW_KEY.write(window_state.key_columns(gone), len(gone)):
        yield key, None
    keys = _WINDOW_KEY.write(identities(windows, slots), len(slots))
    values = _WINDOW_STATE.write(window_state.state_columns(windows, slots), len(slots))
    for key, value in zip(keys, values, strict=True):
        yield key, value


def changed_tasks(tasks: TaskTable) -> Iterator[tuple[bytes, bytes | None]]:
    """Tasks that changed since the last call by their identities; None removes a task."""
    slots, gone = tasks.take_changed()
    for key in _TASK_KEY.write(_task_columns(gone), len(gone)):
        yield key, None
    rows = tasks.state_rows(slots)
    keys = _TASK_KEY.write({name: rows[name] for name in _TASK_FIELDS}, len(slots))
    values = _TASK_STATE.write(rows, len(slots))
    for key, value in zip(keys, values, strict=True):
        yield key, value


def _task_columns(keys: Sequence[TaskKey]) -> dict[str, Coded]:
    return {name: coded_of([getattr(key, name) for key in keys]) for name in _TASK_FIELDS}


def _task_keys(columns: Mapping[str, Column]) -> list[TaskKey]:
    coded = [cast("Texts", columns[name]).coded() for name in _TASK_FIELDS]
    tenants, tasks = ([of.values[code] or "" for code in of.codes.tolist()] for of in coded)
    return [TaskKey(*pair) for pair in zip(tenants, tasks, strict=True)]
