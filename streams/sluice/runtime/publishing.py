"""Absolute rows of one partition, published when they changed, closed or ended."""

from __future__ import annotations

import json

from sluice.metering import cohorts, sources, tasks
from sluice.metering.cohorts import HOUR_US, CohortHour
from sluice.metering.windows import row_record, watermark
from sluice.runtime.outputs import Outbox
from sluice.runtime.state import COHORT, SOURCE, TASK, WINDOW, State
from sluice.wire.codec import encode_row

SECOND_US = 1_000_000
PUBLISH_S = 5  # windows, tasks, ledgers
ROUND_S = 10  # what nobody waits for: producers, cohorts
SWEEP_S = 60


class Publishing:
    """Moves rows from the state to the outbox; a row's version covers the input below it."""

    def __init__(self, state: State, outbox: Outbox, version_base: int) -> None:
        self._state = state
        self._outbox = outbox
        self._version_base = version_base

    def rows(self, position: int) -> None:
        """Publish window rows and tasks that changed; close and end what is due."""
        state, time = self._state, self._state.header.time
        state.touch_all(WINDOW, state.windows.close_due(time))
        state.touch_all(TASK, state.tasks.end_silent(time))
        version, topics = self._version_base + position, self._outbox.topics
        for window, sums in state.windows.take_dirty():
            state.touch(WINDOW, window)
            value = encode_row("WindowRow", row_record(window, sums, time, version))
            self._outbox.row(topics.windows, window.tenant_id, value)
        for task, task_sums in state.tasks.take_dirty():
            state.touch(TASK, task)
            value = encode_row("TaskRow", tasks.row_record(task, task_sums, version))
            self._outbox.row(topics.tasks, task.tenant_id, value)

    def round(self, position: int) -> None:
        """Publish how complete producers are, and what cohorts cost."""
        state, version = self._state, self._version_base + position
        for key, sums in state.sources.take_dirty():
            state.touch(SOURCE, key)
            value = encode_row("SourceRow", sources.row_record(key, sums, version))
            self._outbox.row(self._outbox.topics.sources, key.tenant_id, value)
        complete = watermark(state.header.time)
        for hour, cohort_sums in state.cohorts.take_dirty():
            state.touch(COHORT, hour)
            number = self._outbox.number
            row = cohorts.row_record(hour, cohort_sums, number, complete, version)
            self._outbox.partial(_partial_key(hour, number), encode_row("CohortRow", row))

    def sweep(self) -> None:
        """Drop what nothing can change any more; a task that is over counts in its cohort."""
        state, time = self._state, self._state.header.time
        for key, sums in state.tasks.evict(time):
            state.touch(TASK, key)
            hour = CohortHour(tasks.cohort_of(sums), time - time % HOUR_US)
            if tasks.is_counted(sums):
                state.cohorts.add(hour, sums.cost_pusd, sums.input_tokens)
                state.touch(COHORT, hour)
        state.forget_old(time)

    def next_due(self) -> int | None:
        """Broker time at which rows have to be published if no record comes, or None."""
        state, time = self._state, self._state.header.time
        dues = [state.windows.next_due(), state.tasks.next_due()]
        ledgers = any(ledger.dirty for ledger in state.ledgers.values())
        if state.windows.dirty or state.tasks.dirty or ledgers:
            dues.append(_next(time, PUBLISH_S))
        sources_wait = any(sums.dirty for sums in state.sources.rows.values())
        if sources_wait or any(sums.dirty for sums in state.cohorts.rows.values()):
            dues.append(_next(time, ROUND_S))
        return min((due for due in dues if due is not None), default=None)


def _next(time: int, seconds: int) -> int:
    return (time // SECOND_US // seconds + 1) * seconds * SECOND_US


def _partial_key(hour: CohortHour, number: int) -> bytes:
    # JSON, because names may hold any separator.
    return b"cohort|" + json.dumps([*hour.cohort, hour.hour_start, number]).encode()
