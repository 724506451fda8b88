"""Tasks: counts, marginal tails, loops in context, where a part ends and a new one opens."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, arrived
from tests.task_columns import Added, records_of, run_of, state_of, stored_of

from sluice.metering.baselines import Baseline, Norm
from sluice.metering.columnar.task_run import TaskEffects
from sluice.metering.columnar.tasks import TaskTable
from sluice.metering.packaged import TASK_CALLS
from sluice.metering.tasks import GAP_US, KEEP_US, TaskKey
from sluice.money import INT64_MAX

KEY = TaskKey("acme", "t")
WRITER = Baseline(1, {("task", "", None, "writer"): Norm(50, 100, 30)}, {})


def call(**over: Any) -> dict[str, Any]:
    """A model call of the writer's task."""
    return arrived(**{"task_id": "t", "agent_name": "writer"} | over)


def tool(**over: Any) -> dict[str, Any]:
    """A tool call of the same task, always the same one."""
    base = {"event_type": "tool", "tool_name": "s", "tool_args_hash": "x", "result_hash": "r",
            "input_tokens": 0, "output_tokens": 0}  # fmt: skip
    return call(**base | over)


def fix(before: int | None, **over: Any) -> dict[str, Any]:
    """A correction of a call of the same task."""
    return call(event_type="correction", corrects_event_id="e", original_cost_pusd=before, **over)


def effects(
    tasks: TaskTable, event: dict[str, Any], cost: int | None = 10, time: int = NOW,
    baseline: Baseline | None = WRITER, **about: Any,
) -> TaskEffects:  # fmt: skip
    """Add an event; what its task tells about it."""
    return tasks.add(run_of([Added(event, time, cost, **about)], baseline))


def add(tasks: TaskTable, event: dict[str, Any], *args: Any, **about: Any) -> int | None:
    """Add an event; its share of the task tail."""
    found = effects(tasks, event, *args, **about)
    return int(found.task_tail_pusd[0]) if found.task_tail_known[0] else None


def row(tasks: TaskTable) -> dict[str, Any]:
    """The only task as it is published."""
    return records_of(tasks.rows(tasks.slots(), 1), 1)[0]


def state(tasks: TaskTable) -> dict[str, Any]:
    """All that is known of the only task."""
    return records_of(tasks.state_rows(tasks.slots()), 1)[0]


def test_steps_tools_and_retries_are_counted_apart() -> None:
    """A further attempt is a retry and neither a step nor a tool call."""
    tasks = TaskTable()
    for event in (call(depth=2), call(attempt=2), tool(), tool(attempt_kind="hedge"),
                  call(event_type="gpu_adjustment")):  # fmt: skip
        add(tasks, event)
    names = ("events", "steps", "tool_calls", "retries", "depth")
    assert [row(tasks)[name] for name in names] == [5, 1, 1, 2, 2]


def test_fan_out_is_the_most_children_of_one_parent() -> None:
    """Three calls under a, one under b."""
    tasks = TaskTable()
    for parent in ("a", "b", "a", None, "a"):
        add(tasks, call(parent_event_id=parent))
    assert row(tasks)["fan_out"] == 3


def test_parents_that_had_no_child_for_long_are_forgotten() -> None:
    """The newest 64 parents are remembered; a parent that goes on stays among them."""
    tasks = TaskTable()
    for k in range(70):
        add(tasks, call(parent_event_id="steady"))
        add(tasks, call(parent_event_id=f"p{k}"))
    assert (len(state(tasks)["children"]), row(tasks)["fan_out"]) == (64, 70)


def test_marginal_tails_add_up_to_the_task_s() -> None:
    """60, 30, 40 over a baseline of 100: nothing, nothing, then 30; a correction takes 20 back."""
    tasks = TaskTable()
    assert [add(tasks, call(), cost) for cost in (60, 30, 40)] == [0, 0, 30]
    assert add(tasks, fix(40), -20) == -20
    assert row(tasks)["task_tail_pusd"] == 10


def test_the_baseline_is_frozen_at_the_first_event_that_has_one() -> None:
    """Fifteen calls at the first one's 95th percentile; a later norm changes nothing."""
    tasks = TaskTable()
    assert add(tasks, tool(), 500, baseline=None) is None
    assert add(tasks, call(), 10, baseline=None, q95_pusd=20) == 510 - 15 * 20
    assert add(tasks, call(), 10) == 10
    assert row(tasks)["baseline_pusd"] == TASK_CALLS * 20 == 300


def test_a_baseline_stays_within_64_bits() -> None:
    """An absurd percentile makes the largest amount, not an error."""
    tasks = TaskTable()
    add(tasks, call(), 10, baseline=None, q95_pusd=9 * 10**18)
    assert row(tasks)["baseline_pusd"] == INT64_MAX


def test_the_fourth_same_tool_call_loops_and_what_follows_costs_the_loop() -> None:
    """Three calls are work, the fourth and the model call after it a loop; a new one ends it."""
    tasks = TaskTable()
    events = (tool(), tool(), tool(), tool(), call(), tool(tool_args_hash="y"), call())
    seen = [bool(effects(tasks, event, 7).looping[0]) for event in events]
    assert seen == [False, False, False, True, True, False, False]
    assert row(tasks)["loop_pusd"] == 14


def test_three_failing_calls_are_a_loop_already() -> None:
    """Failing the same way a third time is no progress."""
    failing, changing = TaskTable(), TaskTable()
    for _ in range(2):
        assert not effects(failing, tool(outcome="error")).looping[0]
        add(changing, tool(outcome="error"))
    assert effects(failing, tool(outcome="error")).looping[0]
    assert not effects(changing, tool(outcome="ok")).looping[0]


def test_the_cache_of_the_last_call_is_known_to_the_next() -> None:
    """What was read and written is what the next model call could have read; tools keep it."""
    tasks = TaskTable()
    usage = call(input_tokens=900, cache_read_input_tokens=500, cache_write_input_tokens=300)
    assert effects(tasks, usage).cached_tokens[0] == 0
    assert effects(tasks, tool()).cached_tokens[0] == 0
    assert effects(tasks, call(task_id="other")).cached_tokens[0] == 0
    assert effects(tasks, call()).cached_tokens[0] == 800


def test_a_correction_is_no_event_but_moves_the_sums() -> None:
    """Money, tokens and the unpriced count change; steps and time do not."""
    tasks = TaskTable()
    add(tasks, call(input_tokens=100), None)
    add(tasks, fix(None, input_tokens=-40, output_tokens=0), 30, NOW + 5)
    names = ("events", "unpriced", "cost_pusd", "input_tokens")
    assert [row(tasks)[name] for name in names] == [1, 0, 30, 60]
    assert state(tasks)["seen_at"] == NOW


def test_silence_ends_a_task_and_an_event_revives_it() -> None:
    """After ten minutes it is ended with its last outcome; what comes within the hour goes on."""
    tasks = TaskTable()
    add(tasks, call(outcome="error"))
    assert tasks.end_silent(NOW + GAP_US - 1) == 0
    assert row(tasks)["outcome"] is None
    assert tasks.end_silent(NOW + GAP_US) == 1
    assert (row(tasks)["ended"], row(tasks)["outcome"]) == (True, "error")
    add(tasks, call(), time=NOW + GAP_US + 1)
    assert (row(tasks)["ended"], row(tasks)["events"]) == (False, 2)


def test_a_long_silence_lets_a_new_part_open() -> None:
    """After an hour the part leaves, if published; the next event opens one of its own."""
    tasks = TaskTable()
    add(tasks, call())
    over = NOW + KEEP_US + 1
    tasks.end_silent(over)
    assert tasks.evict(over) == []
    assert row(tasks)["opened_at"] == NOW
    tasks.take_dirty()
    assert [task.key for task in tasks.evict(over)] == [KEY]
    add(tasks, call(), time=over)
    assert (row(tasks)["opened_at"], row(tasks)["events"]) == (over, 1)


def test_a_part_of_corrections_only_has_no_outcome() -> None:
    """It ends like any other, but nothing came out of it and it says nothing about costs."""
    tasks = TaskTable()
    add(tasks, fix(5, input_tokens=0, output_tokens=0), -5)
    tasks.end_silent(NOW + GAP_US)
    found = row(tasks)
    assert (found["ended"], found["outcome"], found["events"]) == (True, None, 0)
    assert not counted(tasks)


def counted(tasks: TaskTable) -> bool:
    """Whether the only task, once it is over, says what such tasks cost."""
    tasks.end_silent(NOW + KEEP_US)
    tasks.take_dirty()
    (task,) = tasks.evict(NOW + 2 * KEEP_US)
    return task.counted


@pytest.mark.parametrize(
    ("more", "cost", "says"),
    [(call(), 10, True), (call(), None, True), (fix(20, input_tokens=0), -20, True),
     (fix(20, input_tokens=0), -21, False), (fix(5, input_tokens=-200), 0, True),
     (fix(5, input_tokens=-201), 0, False)],
)  # fmt: skip
def test_only_a_priced_part_with_sane_sums_says_what_is_normal(
    more: dict[str, Any], cost: int | None, *, says: bool
) -> None:
    """Corrections may take a part below zero: it is left out of the norm."""
    tasks = TaskTable()
    add(tasks, call())
    add(tasks, call())
    add(tasks, more, cost)
    assert counted(tasks) is says


def test_a_part_without_a_price_says_nothing() -> None:
    """One event that has a price is enough, one whose price is known too late as well."""
    unpriced, late = TaskTable(), TaskTable()
    for tasks in (unpriced, late):
        add(tasks, call(), None)
    add(late, fix(None), 3)
    assert [counted(unpriced), counted(late)] == [False, True]


def test_the_latest_event_decides_outcome_whatever_the_order() -> None:
    """An older event that comes late changes neither the outcome nor the end."""
    tasks = TaskTable()
    add(tasks, call(occurred_at=NOW, slo_outcome="good"))
    add(tasks, call(occurred_at=NOW - 9, started_at=NOW - 20, outcome="error", slo_outcome="slow"))
    found = row(tasks)
    assert (found["slo_outcome"], found["last_seen_at"]) == ("good", NOW)
    assert found["started_at"] == NOW - 20
    assert state(tasks)["outcome"] == "ok"


def test_the_check_tells_what_an_event_can_move_at_most() -> None:
    """In a task all that ever went into it; beyond 64 bits it is refused."""
    tasks = TaskTable()
    assert tasks.gross_pusd(run_of([Added(call(), NOW, 7)])) == 0
    add(tasks, call(), INT64_MAX - 9)
    add(tasks, fix(4), -4)
    assert tasks.gross_pusd(run_of([Added(call(), NOW, 5)])) == INT64_MAX - 5
    assert tasks.has_room(run_of([Added(call(), NOW, 5)]))
    assert not tasks.has_room(run_of([Added(call(), NOW, 6)]))


def test_a_row_that_was_published_and_dropped_in_the_log_is_gone() -> None:
    """Reading dirty, clean and removed states in their order leaves nothing to publish."""
    tasks, again = TaskTable(), TaskTable()
    add(tasks, call())
    dirty = stored_of(tasks, tasks.slots())
    tasks.take_dirty()
    clean = stored_of(tasks, tasks.slots())
    again.load(state_of(list(dirty.values())))
    assert again.is_dirty()
    again.load(state_of(list(clean.values())))
    assert not again.is_dirty()
    assert row(again) == row(tasks)
    again.drop(KEY)
    assert (len(again), again.take_dirty().tolist()) == (0, [])


def test_time_due_is_the_next_end_or_leave() -> None:
    """First the session gap, then the time of keeping."""
    tasks = TaskTable()
    assert tasks.next_due() is None
    add(tasks, call())
    assert tasks.next_due() == NOW + GAP_US
    tasks.end_silent(NOW + GAP_US)
    assert tasks.next_due() == NOW + KEEP_US + 1


def test_outside_of_tasks_nothing_loops_and_nothing_is_cached() -> None:
    """Nor is there a task tail, and no length is usual that was not measured."""
    tasks = TaskTable()
    found = effects(tasks, arrived(tool_args_hash="x"))
    assert [bool(column[0]) for column in found] == [False] * 5
    assert len(tasks) == 0
