"""The tasks of one partition as arrays, to which whole runs of events are added at once.

What it says and keeps is what `sluice.metering.tasks` says and keeps event by event.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sluice.metering import loops, packaged
from sluice.metering.baselines import Baseline
from sluice.metering.cohorts import task_cohort
from sluice.metering.columnar import task_layout as layout
from sluice.metering.columnar import task_upkeep as upkeep
from sluice.metering.columnar.names import EMPTY
from sluice.metering.columnar.task_columns import load_state, state_columns, task_columns
from sluice.metering.columnar.task_kernels import add_rows
from sluice.metering.columnar.task_layout import LoopRule, Norms
from sluice.metering.columnar.task_run import (
    TaskEffects,
    TaskRows,
    TaskRun,
    events_of,
    moves_of,
    task_rows,
    usual_inputs,
)
from sluice.metering.columnar.task_store import TaskStore, sorted_slots
from sluice.metering.columnar.usage import Usage
from sluice.metering.tasks import GAP_US, KEEP_US, TaskKey, TaskLook
from sluice.money import INT64_MAX
from sluice.wire.column_types import Coded, Column, Columns, Ints

_RULE = LoopRule(loops.SAME, loops.SAME_FAILED, loops.PERIODS[-1], loops.ROUNDS)


class Evicted(NamedTuple):
    """A task that is over: `name` of its cohort, and whether it says what such tasks cost."""

    key: TaskKey
    name: str
    cost_pusd: int
    input_tokens: int
    counted: bool


class TaskTable:
    """The tasks of one partition that are not over, each with a slot of its own."""

    def __init__(self) -> None:
        self._store = TaskStore()
        self._gone: dict[TaskKey, None] = {}
        self._found: tuple[Usage, TaskRows] | None = None  # of the run that was asked about last

    def __len__(self) -> int:
        return len(self._store.slots)

    def has_room(self, run: TaskRun) -> bool:
        """Whether `add` keeps every sum of the run within 64 bits."""
        found = self._rows_of(run.usage)
        if not len(found.rows):
            return True
        store = self._store
        slots = np.array([store.slots.get(key, -1) for key in found.keys], dtype=np.int64)
        start = store.arrays.amounts[slots[:, None], _SUMS]
        start[slots < 0] = 0
        return upkeep.has_room(start, found.group, found.rows, moves_of(run))

    def gross_pusd(self, run: TaskRun) -> int:
        """A bound of how far the tails of the run's tasks can move by what was added before."""
        store, keys = self._store, self._rows_of(run.usage).keys
        return sum(store.arrays.amounts[store.slots_in_use(keys), layout.GROSS_PUSD].tolist())

    def add(self, run: TaskRun) -> TaskEffects:
        """Add all events in their order; `has_room` comes first."""
        found, self._found = self._rows_of(run.usage), None
        effects = np.zeros((4, run.usage.rows), dtype=np.int64)
        if len(found.rows):
            effects[:, found.rows] = self._added(run, found).T
        return TaskEffects(
            effects[0] != 0, effects[1], usual_inputs(run.usage, run.baseline), effects[2],
            effects[3] != 0,
        )  # fmt: skip

    def _rows_of(self, usage: Usage) -> TaskRows:
        """Which events belong to which task, looked for once until they are added."""
        if self._found is None or self._found[0] is not usage:
            self._found = usage, task_rows(usage)
        return self._found[1]

    def _added(self, run: TaskRun, found: TaskRows) -> Ints:
        store = self._store
        events = events_of(run, found.rows, store.names)
        slots = store.slots_of(found.keys)
        if self._gone:
            for key in found.keys:
                self._gone.pop(key, None)
        store.reserve(
            self._without(slots, events, found, layout.PARENT, layout.CHILDREN),
            self._without(slots, events, found, layout.SYMBOL, layout.SYMBOLS),
        )
        norms = self._norms(slots, events[found.first], run.baseline)
        effects = add_rows(store.arrays, events, found.group, slots, norms, _RULE)
        store.forget_texts()
        return effects

    def _without(self, slots: Ints, events: Ints, found: TaskRows, column: int, block: int) -> int:
        """How many tasks need a block for something that they have no block for yet."""
        having = events[:, column] >= 0
        if not having.any():
            return 0
        needed = np.zeros(len(slots), dtype=np.bool_)
        needed[found.group[having]] = True
        return int((self._store.arrays.marks[slots[needed], block] == 0).sum())

    def _norms(self, slots: Ints, first: Ints, baseline: Baseline | None) -> Norms:
        q95, known = np.zeros(len(slots), np.int64), np.zeros(len(slots), np.bool_)
        if baseline is not None:
            marks, texts = self._store.arrays.marks[slots], self._store.names.texts
            is_new = marks[:, layout.FLAGS] == 0
            agent = np.where(is_new, first[:, layout.AGENT_OF], marks[:, layout.AGENT])
            workflow = np.where(is_new, first[:, layout.WORKFLOW_OF], marks[:, layout.WORKFLOW])
            names, of = np.unique(_name_of(agent, workflow), return_inverse=True)
            for place, name in enumerate(names.tolist()):
                norm = baseline.norm(task_cohort(texts[name] or ""))
                if norm is not None:
                    q95[of == place], known[of == place] = min(norm.q95_pusd, INT64_MAX), True
        return Norms(q95, known, packaged.TASK_CALLS)

    def end_silent(self, time: int) -> int:
        """Mark tasks that fell silent, to be published once more; how many."""
        return upkeep.end_silent(self._store.arrays, self._store.top, time - GAP_US)

    def next_due(self) -> int | None:
        """Broker time at which a task ends or leaves if nothing comes, or None."""
        store = self._store
        found, due = upkeep.next_due(store.arrays, store.top, GAP_US, KEEP_US + 1)
        return due if found else None

    def is_dirty(self) -> bool:
        """Whether a task is to be published."""
        return bool(self._store.arrays.counts[layout.DIRTY_COUNT])

    def is_changed(self) -> bool:
        """Whether a task is to be stored or removed from what is stored."""
        return bool(self._gone or self._store.arrays.counts[layout.CHANGED_COUNT])

    def take_dirty(self) -> Ints:
        """Slots of tasks to publish now, in key order; they count as published afterwards."""
        slots = upkeep.published(self._store.arrays)
        return sorted_slots(self._store.keys_of(slots), slots)

    def rows(self, slots: Ints, version: int) -> dict[str, Column | Coded]:
        """The TaskRows of some slots, every field of the schema."""
        return task_columns(self._store, slots, version)

    def evict(self, time: int) -> list[Evicted]:
        """Remove published tasks that are long over and return them in key order."""
        store = self._store
        slots = upkeep.over(store.arrays, store.top, time - KEEP_US)
        slots = sorted_slots(store.keys_of(slots), slots)
        evicted = self._evicted(slots)
        store.free(slots)
        store.forget_texts()
        self._gone.update(dict.fromkeys(task.key for task in evicted))
        return evicted

    def _evicted(self, slots: Ints) -> list[Evicted]:
        arrays, texts = self._store.arrays, self._store.names.texts
        amounts, marks = arrays.amounts[slots], arrays.marks[slots]
        name = _name_of(marks[:, layout.AGENT], marks[:, layout.WORKFLOW])
        cost, tokens = amounts[:, layout.COST_PUSD], amounts[:, layout.INPUT_TOKENS]
        priced = amounts[:, layout.EVENTS] > np.maximum(0, amounts[:, layout.UNPRICED])
        counted = priced & (cost >= 0) & (tokens >= 0)
        columns = (column.tolist() for column in (name, cost, tokens, counted))
        return [
            Evicted(key, texts[name] or "", *sums)
            for key, name, *sums in zip(self._store.keys_of(slots), *columns, strict=True)
        ]

    def seen_since(self, time: int) -> list[TaskKey]:
        """Tasks that are not over and had an event at `time` (µs) or later, in key order."""
        store = self._store
        used = np.fromiter(store.slots.values(), dtype=np.int64, count=len(store.slots))
        live = (store.arrays.marks[used, layout.FLAGS] & layout.ENDED) == 0
        recent = live & (store.arrays.amounts[used, layout.SEEN_AT] >= time)
        return sorted(store.keys_of(used[recent]))

    def look(self, key: TaskKey) -> TaskLook | None:
        """What signals see of a task, None where it is over."""
        store, slot = self._store, self._store.slots.get(key)
        marks = None if slot is None else store.arrays.marks[slot]
        if slot is None or marks is None or marks[layout.FLAGS] & layout.ENDED:
            return None
        amounts = store.arrays.amounts[slot].tolist()
        judged, looping = (bool(marks[layout.FLAGS] & flag)
                           for flag in (layout.JUDGED, layout.LOOPING))  # fmt: skip
        enough = marks[layout.SYMBOLS_END] >= loops.GRAM_WINDOW
        score = upkeep.scores(store.arrays, np.array([slot])) if enough else [0]
        return TaskLook(
            amounts[layout.EVENTS], amounts[layout.TOOL_CALLS], amounts[layout.FAN_OUT],
            int(marks[layout.DEPTH]), amounts[layout.COST_PUSD], amounts[layout.LOOP_PUSD],
            amounts[layout.BASELINE_PUSD] if judged else None, looping,
            int(score[0]) if enough else None,
        )  # fmt: skip

    def slots(self) -> Ints:
        """Slots of all tasks, in key order."""
        slots = np.fromiter(self._store.slots.values(), dtype=np.int64)
        return sorted_slots(self._store.keys_of(slots), slots)

    def take_changed(self) -> tuple[Ints, list[TaskKey]]:
        """Slots that changed since the last call, and keys of tasks that are gone since."""
        gone, self._gone = list(self._gone), {}
        return upkeep.stored(self._store.arrays), gone

    def state_rows(self, slots: Ints) -> dict[str, Column | Coded]:
        """Rows of TASK_STATE: all that is needed to go on."""
        return state_columns(self._store, slots)

    def state_keys(self, slots: Ints) -> list[TaskKey]:
        """The tasks of some slots."""
        return self._store.keys_of(slots)

    def load(self, columns: Columns) -> None:
        """Take tasks as they were stored, in the place of those with the same key.

        Raises WireError where a row is none of TASK_STATE.
        """
        for key in load_state(self._store, columns):
            self._gone.pop(key, None)
        self._store.forget_texts()

    def drop(self, key: TaskKey) -> None:
        """Forget a task."""
        self._store.free(self._store.slots_in_use([key]))


_SUMS = np.array([layout.GROSS_PUSD, layout.INPUT_TOKENS, layout.OUTPUT_TOKENS])


def _name_of(agent: Ints | layout.Marks, workflow: Ints | layout.Marks) -> Ints:
    """The number of the name that a task's cohort has; None and "" are the same there."""
    name = np.where(agent > EMPTY, agent, np.where(workflow > EMPTY, workflow, EMPTY))
    return name.astype(np.int64)
