"""Absolute rows of one partition, published when they changed, closed or ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from zlib import crc32

from sluice.metering import sources
from sluice.metering.cohorts import HOUR_US, CohortHour, task_cohort
from sluice.metering.columnar.window_rows import row_columns
from sluice.metering.windows import watermark
from sluice.runtime.outputs import Outbox
from sluice.runtime.state import SOURCE, State
from sluice.wire.codec import encode_row
from sluice.wire.column_types import Coded, Column
from sluice.wire.layout import layout

SECOND_US = 1_000_000
PUBLISH_S = 5  # windows, each tenant's in its turn; tasks, ledgers
ROUND_S = 10  # what nobody waits for: producers, cohorts
SWEEP_S = 60


class Publishing:
    """Moves rows from the state to the outbox; a row's version covers the input below it."""

    def __init__(self, state: State, outbox: Outbox, version_base: int) -> None:
        self._state = state
        self._outbox = outbox
        self._version_base = version_base

    def end_due(self) -> None:
        """Close windows and end tasks that are over: their rows are published once more."""
        self._state.windows.close_due(self._state.header.time)
        self._state.tasks.end_silent(self._state.header.time)

    def windows(self, position: int, seconds: range) -> None:
        """Publish rows that changed of the tenants whose turn comes in these `seconds`.

        Tenants take turns because all rows of a busy partition at once would hold up decisions.
        """
        windows, time = self._state.windows, self._state.header.time
        if windows.is_dirty():
            turns = {second % PUBLISH_S for second in seconds}
            slots = windows.take_dirty(lambda tenant_id: turn_of(tenant_id) in turns)
            columns = row_columns(windows, slots, time, self._version_base + position)
            self._rows(self._outbox.topics.windows, "WindowRow", columns)

    def tasks(self, position: int) -> None:
        """Publish tasks that changed."""
        tasks, version = self._state.tasks, self._version_base + position
        if tasks.is_dirty():
            columns = tasks.rows(tasks.take_dirty(), version)
            self._rows(self._outbox.topics.tasks, "TaskRow", columns)

    def _rows(self, topic: str, name: str, columns: Mapping[str, Column | Coded]) -> None:
        tenants = columns["tenant_id"]
        if not isinstance(tenants, Coded) or not len(tenants.codes):
            return
        keys = [(text or "").encode() for text in tenants.values]
        values = layout(name).write(columns, len(tenants.codes))
        for code, value in zip(tenants.codes.tolist(), values, strict=True):
            self._outbox.keyed(topic, keys[code], value)

    def round(self, position: int) -> None:
        """Publish how complete producers are, what cohorts cost, and what ended decisions did."""
        self._producers(position)
        self._cohorts(position)
        for row in self._state.outcomes.take_ended(self._version_base + position):
            value = encode_row("DecisionOutcome", row)
            self._outbox.row(self._outbox.topics.outcomes, row["decision_id"], value)

    def _producers(self, position: int) -> None:
        state, version = self._state, self._version_base + position
        for key, sums in state.sources.take_dirty():
            state.touch(SOURCE, key)
            value = encode_row("SourceRow", sources.row_record(key, sums, version))
            self._outbox.row(self._outbox.topics.sources, key.tenant_id, value)

    def _cohorts(self, position: int) -> None:
        state, version = self._state, self._version_base + position
        complete = watermark(state.header.time)
        hours, number = state.cohorts.take_dirty(), self._outbox.number
        if not hours:
            return
        columns = state.cohorts.columns(hours, number, complete, version)
        for hour, value in zip(hours, layout("CohortRow").write(columns, len(hours)), strict=True):
            self._outbox.partial(_partial_key(hour, number), value)

    def sweep(self) -> None:
        """Drop what nothing can change any more; a task that is over counts in its cohort."""
        state, time = self._state, self._state.header.time
        for task in state.tasks.evict(time):
            hour = CohortHour(task_cohort(task.name), time - time % HOUR_US)
            if task.counted:
                state.cohorts.add_one(hour, task.cost_pusd, task.input_tokens)
        state.forget_old(time)

    def next_due(self) -> int | None:
        """Broker time at which rows have to be published if no record comes, or None."""
        state, time = self._state, self._state.header.time
        dues = [state.windows.next_due(), state.tasks.next_due()]
        ledgers = any(ledger.dirty for ledger in state.ledgers.values())
        if state.windows.is_dirty():
            dues.append(_next(time, 1))
        if state.tasks.is_dirty() or ledgers:
            dues.append(_next(time, PUBLISH_S))
        sources_wait = any(sums.dirty for sums in state.sources.rows.values())
        if sources_wait or state.cohorts.is_dirty() or state.outcomes.is_dirty():
            dues.append(_next(time, ROUND_S))
        return min((due for due in dues if due is not None), default=None)


def turn_of(tenant_id: str) -> int:
    """The second, of PUBLISH_S, in which the rows of a tenant are published."""
    return crc32(tenant_id.encode()) % PUBLISH_S


def _next(time: int, seconds: int) -> int:
    return (time // SECOND_US // seconds + 1) * seconds * SECOND_US


def _partial_key(hour: CohortHour, number: int) -> bytes:
    # JSON, because names may hold any separator.
    return b"cohort|" + json.dumps([*hour.cohort, hour.hour_start, number]).encode()
