"""One usage event added to everything that sums it: producer, window, task, cohort."""

from __future__ import annotations

from typing import Any

from sluice.metering.baselines import Baseline
from sluice.metering.causes import Context
from sluice.metering.cohorts import CohortHour, cohort_of, is_counted
from sluice.metering.dedupe import Seen
from sluice.metering.labels import Label, label
from sluice.metering.prices import PriceBook
from sluice.metering.rating import cost
from sluice.metering.sources import source_key
from sluice.metering.windows import FUTURE_US, WindowKey
from sluice.runtime.governance import ReferenceStore
from sluice.runtime.outputs import Record
from sluice.runtime.state import COHORT, SOURCE, TASK, UNNUMBERED, WINDOW, State

Event = dict[str, Any]


class Accounting:
    """Rates and labels events by the versions in force, and adds them up."""

    def __init__(self, state: State, references: ReferenceStore) -> None:
        self._state = state
        self._references = references

    def is_new(self, record: Record, event: Event) -> bool:
        """Whether an event is to be applied; its producer's mark moves either way."""
        state, key = self._state, source_key(event, record.key)
        rows = state.sources.rows
        lost_before = rows[key].lost if key in rows else 0
        seen = state.sources.observe(event, record.key, state.header.time)
        state.touch(SOURCE, key)
        if not key.source_epoch and seen is Seen.NEW:
            state.touch(UNNUMBERED, (event["source"], event["event_id"]))
        state.count("lost", rows[key].lost - lost_before)
        state.count("recovered", seen is Seen.RECOVERED)
        state.count("duplicates", seen is Seen.DUPLICATE)
        return seen is not Seen.DUPLICATE

    def is_repeated_fault(self, record: Record, event: Event) -> bool:
        """Whether a faulty event was seen before; its number counts, so that it leaves no hole.

        One without a number may come again mended, under the same event_id.
        """
        numbered = source_key(event, record.key).source_epoch
        return bool(numbered) and not self.is_new(record, event)

    def labelled(self, event: Event) -> tuple[Label, Context]:
        """An event's cost, bands and causes, and what its task knew before it."""
        book, baseline = self._book(), self._baseline()
        context = self._state.tasks.context_of(event, baseline)
        return label(event, cost(book, event), book, baseline, context), context

    def add_refusals(self, record: Record, event: Event) -> None:
        """Add what an admission point refused; OverflowError leaves everything as it was."""
        window = self._window_of(event)
        self._state.windows.add(window, event, None, self._state.header.time)
        self._added(record, event, window)
        self._state.count("admission_events")

    def add(self, record: Record, event: Event, labelled: Label, context: Context) -> None:
        """Add a usage event; OverflowError leaves everything as it was."""
        state, time = self._state, self._state.header.time
        window = self._window_of(event)
        if event["task_id"] is not None:
            state.windows.check_task_tail(window, state.tasks.check(event, labelled))
        state.windows.add(window, event, labelled, time)
        if event["task_id"] is not None:
            tail = state.tasks.add(event, labelled, context, time, self._baseline())
            state.windows.add_task_tail(window, tail)
            state.touch(TASK, (event["tenant_id"], event["task_id"]))
        self._added(record, event, window)
        self._add_to_cohort(event, labelled, context)
        state.count("events")
        state.count("unpriced", labelled.cost_pusd is None)
        state.count("clamped", event["occurred_at"] > time + FUTURE_US)

    def _window_of(self, event: Event) -> WindowKey:
        state, time = self._state, self._state.header.time
        unprotected = state.sources.is_unprotected(event, time)
        return state.windows.key_of(event, time, unprotected=unprotected)

    def _added(self, record: Record, event: Event, window: WindowKey) -> None:
        state, time = self._state, self._state.header.time
        state.touch(WINDOW, window)
        state.count("late", bool(window.lane))
        if state.sources.is_unprotected(event, time):
            state.sources.count_unprotected(event, record.key, time)
            state.count("unprotected")

    def _add_to_cohort(self, event: Event, labelled: Label, context: Context) -> None:
        cost_pusd, time = labelled.cost_pusd, self._state.header.time
        # A loop is no norm.
        if cost_pusd is None or context.looping or not is_counted(event, cost_pusd):
            return
        hour = self._state.cohorts.hour_of(min(event["occurred_at"], time), time)
        if hour is not None:
            key = CohortHour(cohort_of(event), hour)
            self._state.cohorts.add(key, cost_pusd, event["input_tokens"])
            self._state.touch(COHORT, key)

    def _book(self) -> PriceBook | None:
        name = self._state.header.price_book
        book: PriceBook | None = self._references.get(("price_book", *name)) if name else None
        return book

    def _baseline(self) -> Baseline | None:
        name = self._state.header.baseline
        found: Baseline | None = self._references.get(("baseline", *name)) if name else None
        return found
