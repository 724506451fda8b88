"""Runs of usage added to everything that sums them: producers, windows, tasks, cohorts.

An event is added to all of them or, with an error that says why, to none. The functions for one
event (check_usage, cost, ...) decide where columns do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sluice.errors import WireError
from sluice.metering.baselines import Baseline
from sluice.metering.columnar import causes, dedupe
from sluice.metering.columnar.added import added
from sluice.metering.columnar.causes import Contexts
from sluice.metering.columnar.checks import surely_fine
from sluice.metering.columnar.priced import Priced, priced
from sluice.metering.columnar.prices import Prices
from sluice.metering.columnar.task_run import TaskEffects, TaskRun
from sluice.metering.columnar.tasks import TaskTable
from sluice.metering.columnar.window_layout import Added, Keys
from sluice.metering.prices import PriceBook
from sluice.metering.quantities import MEASURED, TOKENS, refused_requests
from sluice.metering.validate import check_usage
from sluice.metering.windows import FUTURE_US
from sluice.money import checked_sum
from sluice.runtime.governance import ReferenceStore
from sluice.runtime.incoming import Run
from sluice.runtime.outputs import Record
from sluice.runtime.state import SOURCE, UNNUMBERED, State
from sluice.wire.column_types import Bools, Ints

# Far enough from 64 bits that no sum of a run leaves them.
_ROOM = 2.0**62
# Below this the columns' own cost is more than they save.
_FEWEST = 12
_COUNTED = (*TOKENS, *MEASURED)

Event = dict[str, Any]
Refused = list[tuple[Record, WireError]]


class Labelled(NamedTuple):
    """Events with their costs, and the window rows that they belong to."""

    run: Run
    found: Priced
    keys: Keys
    unprotected: Bools


class Accounting:
    """Checks, rates and labels events by the versions in force, and adds them up."""

    def __init__(self, state: State, references: ReferenceStore) -> None:
        self._state = state
        self._references = references
        self._prices = Prices(None)

    # ---- what is to be applied

    def fresh(self, run: Run) -> tuple[Run, Refused]:
        """The events that make sense and were not seen before, and those that make none.

        A faulty event is given once: its number counts, so that it leaves no hole. One without a
        number may come again mended, under the same event_id.
        """
        usage, keys = run.usage, [record.key for record in run.records]
        few = len(run.records) < _FEWEST
        fine = np.zeros(usage.rows, np.bool_) if few else surely_fine(usage, keys, run.time)
        faults = self._faults(run, np.flatnonzero(~fine), fine)
        numbers = usage.number("source_seq")
        numbered = numbers.known & (numbers.value >= 1)
        asked = fine | numbered
        seen = dedupe.observe(self._state.sources, usage, keys, run.time, asked)
        self._count_seen(seen, int((asked & ~seen.new).sum()))
        refused = [
            (run.records[row], error)
            for row, error in faults.items()
            if seen.new[row] or not numbered[row]
        ]
        return run.take(np.flatnonzero(fine & seen.new)), refused

    def _faults(self, run: Run, rows: Ints, fine: Bools) -> dict[int, WireError]:
        faults: dict[int, WireError] = {}
        for row in rows.tolist():
            try:
                check_usage(run.event(row), run.records[row].key, int(run.time[row]))
            except WireError as error:
                faults[row] = error
            else:
                fine[row] = True
        return faults

    def _count_seen(self, seen: dedupe.Observed, duplicates: int) -> None:
        state = self._state
        state.touch_all(SOURCE, seen.sources)
        state.touch_all(UNNUMBERED, seen.unnumbered)
        state.count("lost", seen.missed)
        state.count("recovered", seen.recovered)
        state.count("duplicates", duplicates)

    # ---- refusals

    def add_refusals(self, run: Run) -> Refused:
        """Add what admission points refused; of events without room nothing is added."""
        refused: Refused = []
        for row in range(len(run.records)):
            one = run.take(np.array([row]))
            try:
                self._add_refusal(one, run.event(row))
            except OverflowError as error:
                refused.append((run.records[row], WireError("sum_overflow", str(error))))
        return refused

    def _add_refusal(self, run: Run, event: Event) -> None:
        windows, unprotected = self._state.windows, self._unprotected(run)
        keys = windows.keys_of(run.usage, run.time, unprotected)
        before = windows.refusals(int(windows.find(keys)[0]))
        requests, averted = refused_requests(event), event["estimated_cost_pusd"] or 0
        for have, more in zip(before, (requests, averted), strict=True):
            checked_sum(have, more)
        windows.refuse(windows.open(keys), np.array([requests]), np.array([averted]))
        self._count_late(run, windows.is_late(keys), unprotected)
        self._state.outcomes.obeyed(event)
        self._state.count("admission_events")

    # ---- usage

    def priced(self, run: Run) -> tuple[Run, Priced, Refused]:
        """Events with their costs and bands; those whose cost leaves 64 bits are refused."""
        found, over = priced(run.usage, self._in_force(), self._baseline(), run.event)
        if not over:
            return run, found, []
        refused = [(run.records[row], WireError("sum_overflow", str(e))) for row, e in over.items()]
        kept = np.setdiff1d(np.arange(len(run.records)), list(over))
        return run.take(kept), found.take(kept), refused

    def labelled(self, run: Run, found: Priced) -> Labelled:
        """What the events belong to."""
        unprotected = self._unprotected(run)
        keys = self._state.windows.keys_of(run.usage, run.time, unprotected)
        return Labelled(run, found, keys, unprotected)

    def has_room(self, of: Labelled) -> bool:
        """Whether no sum can leave 64 bits, whichever of the events are added."""
        windows, run = self._state.windows, self._task_run(of)
        moved = max(_volume(of.run, of.found), self._task_tail(run))
        largest = windows.most(windows.find(of.keys)) + moved
        return largest < _ROOM and self._state.tasks.has_room(run)

    def check(self, of: Labelled) -> None:
        """Raise OverflowError where the only event of a run cannot be added."""
        windows, run = self._state.windows, self._task_run(of)
        sums = self._sums(of, windows.find(of.keys), TaskTable().add(run))
        windows.check(sums, self._task_tail(run))
        if not self._state.tasks.has_room(run):
            raise OverflowError("a sum of the task leaves 64 bits")

    def add(self, of: Labelled) -> None:
        """Add events for which there is room."""
        state, (run, found, keys, unprotected) = self._state, of
        effects = state.tasks.add(self._task_run(of))
        book, baseline = self._in_force().book, self._baseline()
        state.windows.add(
            self._sums(of, state.windows.open(keys), effects),
            book.version if book else None, baseline.version if baseline else None,
        )  # fmt: skip
        self._count_late(run, state.windows.is_late(keys), unprotected)
        counted = found.priced & ~effects.looping
        state.cohorts.add(run.usage, found.cost_pusd, counted, run.time)
        state.count("events", len(run.records))
        state.count("unpriced", int((~found.priced).sum()))
        state.count("clamped", int(_clamped(run).sum()))

    def _sums(self, of: Labelled, slots: Ints, effects: TaskEffects) -> Added:
        found, usage = of.found, of.run.usage
        contexts = Contexts(effects.looping, effects.cached_tokens, effects.usual_input)
        splits = causes.split(usage, found.cost_pusd, found.bands[2], found.parts, contexts)
        names = self._state.windows.names
        return added(names, slots, usage, found, splits, effects, _clamped(of.run))

    def _task_run(self, of: Labelled) -> TaskRun:
        run, found = of.run, of.found
        limits = found.limits
        return TaskRun(
            run.usage, run.time, found.cost_pusd, found.priced, found.bands[2], limits.q95_pusd,
            limits.known, self._baseline(),
        )  # fmt: skip

    def _task_tail(self, run: TaskRun) -> int:
        """The most that the tails of a run's tasks can move, pico-USD."""
        in_task = run.usage.text("task_id").length >= 0
        moved = sum(map(abs, run.cost_pusd[in_task].tolist()))
        return moved + self._state.tasks.gross_pusd(run) if in_task.any() else 0

    def _unprotected(self, run: Run) -> Bools:
        return dedupe.unprotected(self._state.sources, run.usage, run.time)

    def _count_late(self, run: Run, late: Bools, unprotected: Bools) -> None:
        state = self._state
        state.count("late", int(late.sum()))
        rows: Iterable[int] = np.flatnonzero(unprotected).tolist()
        for row in rows:
            record, time = run.records[row], int(run.time[row])
            state.sources.count_unprotected(run.event(row), record.key, time)
            state.count("unprotected")

    def _in_force(self) -> Prices:
        """The prices of the book in force, prepared once per version."""
        name = self._state.header.price_book
        book: PriceBook | None = self._references.get(("price_book", *name)) if name else None
        if self._prices.book is not book:
            self._prices = Prices(book)
        return self._prices

    def _baseline(self) -> Baseline | None:
        name = self._state.header.baseline
        found: Baseline | None = self._references.get(("baseline", *name)) if name else None
        return found


def _clamped(run: Run) -> Bools:
    found: Bools = run.usage.number("occurred_at").value > run.time + FUTURE_US
    return found


def _volume(run: Run, found: Priced) -> float:
    """A bound of what the events add to any one sum."""
    amounts = [run.usage.number(name).value for name in _COUNTED]
    before = _total(run.usage.number("original_cost_pusd").value)
    moved = _total(found.cost_pusd) + 2 * before + _total(found.parts.cost_pusd)
    return max(moved, _total(found.parts.quantity), *map(_total, amounts))


def _total(amounts: Ints) -> float:
    return float(np.abs(amounts.astype(np.float64)).sum())
