"""What an event costs its task: `python tests/bench/task_table.py`.

Prints one JSON line per length of a run with microseconds per event of a task, added to the table
with columns that nobody asked for before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import numpy as np

from sluice.bench.workload import Mix, make
from sluice.metering.columnar.task_run import TaskRun
from sluice.metering.columnar.tasks import TaskTable
from sluice.metering.columnar.usage import Usage
from sluice.wire.columns import read_usage

EVENTS = 50_000
RUNS = (1, 100, 5_000)
MOST_RUNS = 300
NOW = 1_800_000_000_000_000
COST, TAIL, Q95 = 1_000_000, 0, 90_000_000


def main() -> None:
    """Run all lengths."""
    values = task_events()
    table_adder()(run_of(values))  # compiles
    for length in RUNS:
        runs = [values[n : n + length] for n in range(0, len(values), length)][:MOST_RUNS]
        print(json.dumps({
            "run": length, "events": sum(map(len, runs)),
            "table_us": timed(runs, table_adder()),
        }))  # fmt: skip


def task_events() -> list[bytes]:
    """Values of the workload's events that belong to tasks."""
    work = make(Mix(EVENTS))
    values = [value for _, value in work.records(work.occurred_at(NOW))]
    usage = read_usage(values)
    rows = np.flatnonzero(Usage(usage.columns, len(values)).text("task_id").length >= 0)
    return [values[row] for row in rows.tolist()]


def run_of(values: Sequence[bytes]) -> TaskRun:
    """A run of these events, each at the same price."""
    ones = np.ones(len(values), dtype=np.int64)
    has = ones.astype(np.bool_)
    usage = Usage(read_usage(values).columns, len(values))
    return TaskRun(usage, ones * NOW, ones * COST, has, ones * TAIL, ones * Q95, has, None)


def table_adder() -> Callable[[TaskRun], object]:
    """Adds runs to a table, with the check that comes first."""
    table = TaskTable()

    def add(run: TaskRun) -> object:
        return table.has_room(run) and table.add(run)

    return add


def timed(runs: Sequence[Sequence[bytes]], add: Callable[[TaskRun], object]) -> float:
    """Microseconds per event, without what it takes to prepare runs."""
    took = sum(_seconds(add, prepared) for prepared in map(run_of, runs))
    return round(1e6 * took / sum(map(len, runs)), 2)


def _seconds(add: Callable[[TaskRun], object], prepared: TaskRun) -> float:
    start = time.perf_counter()
    add(prepared)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
