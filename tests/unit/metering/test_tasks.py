"""Tasks: counts, marginal tails, loops in context, where a part ends and a new one opens."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, arrived

from sluice.metering.baselines import Baseline, Norm
from sluice.metering.causes import NOTHING, Context
from sluice.metering.labels import Bands, Label, Thresholds
from sluice.metering.packaged import TASK_CALLS
from sluice.metering.tasks import GAP_US, KEEP_US, TaskKey, Tasks, is_counted, row_record
from sluice.money import INT64_MAX

KEY = TaskKey("acme", "t")
WRITER = Baseline(1, {("task", "", None, "writer"): Norm(50, 100, 30)}, {})


def label(cost: int | None, q95: int | None = None, tail: int = 0) -> Label:
    """What pricing found out about an event."""
    amount = cost or 0
    limits = None if q95 is None else Thresholds(0, q95)
    bands = Bands(amount - tail, 0, tail)
    return Label(cost, (), bands, (amount, *NOTHING[1:]), NOTHING, limits, None, None)


def call(**over: Any) -> dict[str, Any]:
    """A model call of the writer's task."""
    return arrived(**{"task_id": "t", "agent_name": "writer"} | over)


def tool(**over: Any) -> dict[str, Any]:
    """A tool call of the same task, always the same one."""
    base = {"event_type": "tool", "tool_name": "s", "tool_args_hash": "x", "result_hash": "r",
            "input_tokens": 0, "output_tokens": 0}  # fmt: skip
    return call(**base | over)


def add(
    tasks: Tasks, event: dict[str, Any], cost: int | None = 10, time: int = NOW,
    baseline: Baseline | None = WRITER, **about: Any,
) -> int | None:  # fmt: skip
    """Add an event with the context that the task gives it; its share of the task tail."""
    context = tasks.context_of(event, baseline)
    return tasks.add(event, label(cost, **about), context, time, baseline)


def test_steps_tools_and_retries_are_counted_apart() -> None:
    """A further attempt is a retry and neither a step nor a tool call."""
    tasks = Tasks()
    for event in (call(depth=2), call(attempt=2), tool(), tool(attempt_kind="hedge"),
                  call(event_type="gpu_adjustment")):  # fmt: skip
        add(tasks, event)
    sums = tasks.rows[KEY]
    assert (sums.events, sums.steps, sums.tool_calls, sums.retries, sums.depth) == (5, 1, 1, 2, 2)


def test_fan_out_is_the_most_children_of_one_parent() -> None:
    """Three calls under a, one under b."""
    tasks = Tasks()
    for parent in ("a", "b", "a", None, "a"):
        add(tasks, call(parent_event_id=parent))
    assert tasks.rows[KEY].fan_out == 3


def test_parents_that_had_no_child_for_long_are_forgotten() -> None:
    """The newest 64 parents are remembered; a parent that goes on stays among them."""
    tasks = Tasks()
    for k in range(70):
        add(tasks, call(parent_event_id="steady"))
        add(tasks, call(parent_event_id=f"p{k}"))
    sums = tasks.rows[KEY]
    assert (len(sums.children), sums.fan_out) == (64, 70)


def test_marginal_tails_add_up_to_the_task_s() -> None:
    """60, 30, 40 over a baseline of 100: nothing, nothing, then 30; a correction takes 20 back."""
    tasks = Tasks()
    assert [add(tasks, call(), cost) for cost in (60, 30, 40)] == [0, 0, 30]
    assert add(tasks, call(event_type="correction", original_cost_pusd=40), -20) == -20
    assert row_record(KEY, tasks.rows[KEY], 1)["task_tail_pusd"] == 10


def test_the_baseline_is_frozen_at_the_first_event_that_has_one() -> None:
    """Fifteen calls at the first one's 95th percentile; a later norm changes nothing."""
    tasks = Tasks()
    assert add(tasks, tool(), 500, baseline=None) is None
    assert add(tasks, call(), 10, baseline=None, q95=20) == 510 - 15 * 20
    assert add(tasks, call(), 10) == 10
    assert tasks.rows[KEY].baseline_pusd == TASK_CALLS * 20 == 300


def test_a_baseline_stays_within_64_bits() -> None:
    """An absurd percentile makes the largest amount, not an error."""
    tasks = Tasks()
    add(tasks, call(), 10, baseline=None, q95=9 * 10**18)
    assert tasks.rows[KEY].baseline_pusd == INT64_MAX


def test_the_fourth_same_tool_call_loops_and_what_follows_costs_the_loop() -> None:
    """Three calls are work, the fourth and the model call after it a loop; a new one ends it."""
    tasks = Tasks()
    seen = []
    for event in (tool(), tool(), tool(), tool(), call(), tool(tool_args_hash="y"), call()):
        seen.append(tasks.context_of(event, None).looping)
        add(tasks, event, 7)
    assert seen == [False, False, False, True, True, False, False]
    assert tasks.rows[KEY].loop_pusd == 14


def test_three_failing_calls_are_a_loop_already() -> None:
    """Failing the same way a third time is no progress."""
    tasks = Tasks()
    for _ in range(2):
        add(tasks, tool(outcome="error"))
    assert tasks.context_of(tool(outcome="error"), None).looping
    assert not tasks.context_of(tool(outcome="ok"), None).looping


def test_the_cache_of_the_last_call_is_known_to_the_next() -> None:
    """What was read and written is what the next model call could have read; tools keep it."""
    tasks = Tasks()
    add(tasks, call(input_tokens=900, cache_read_input_tokens=500, cache_write_input_tokens=300))
    add(tasks, tool())
    assert tasks.context_of(call(), None).cached_tokens == 800
    assert tasks.context_of(tool(), None).cached_tokens == 0
    assert tasks.context_of(call(task_id="other"), None).cached_tokens == 0


def test_a_correction_is_no_event_but_moves_the_sums() -> None:
    """Money, tokens and the unpriced count change; steps and time do not."""
    tasks = Tasks()
    add(tasks, call(input_tokens=100), None)
    fix = call(event_type="correction", original_cost_pusd=None, input_tokens=-40,
               output_tokens=0)  # fmt: skip
    add(tasks, fix, 30, NOW + 5)
    sums = tasks.rows[KEY]
    assert (sums.events, sums.unpriced, sums.cost_pusd, sums.input_tokens) == (1, 0, 30, 60)
    assert sums.seen_at == NOW


def test_silence_ends_a_task_and_an_event_revives_it() -> None:
    """After ten minutes it is ended with its last outcome; what comes within the hour goes on."""
    tasks = Tasks()
    add(tasks, call(outcome="error"))
    assert tasks.end_silent(NOW + GAP_US - 1) == []
    assert row_record(KEY, tasks.rows[KEY], 1)["outcome"] is None
    assert tasks.end_silent(NOW + GAP_US) == [KEY]
    row = row_record(KEY, tasks.rows[KEY], 1)
    assert (row["ended"], row["outcome"]) == (True, "error")
    add(tasks, call(), time=NOW + GAP_US + 1)
    assert not tasks.rows[KEY].ended
    assert tasks.rows[KEY].events == 2


def test_a_long_silence_lets_a_new_part_open() -> None:
    """After an hour the part leaves, if published; the next event opens one of its own."""
    tasks = Tasks()
    add(tasks, call())
    over = NOW + KEEP_US + 1
    tasks.end_silent(over)
    assert tasks.evict(over) == []
    list(tasks.take_dirty())
    ((key, sums),) = tasks.evict(over)
    assert (key, sums.opened_at) == (KEY, NOW)
    add(tasks, call(), time=over)
    assert (tasks.rows[KEY].opened_at, tasks.rows[KEY].events) == (over, 1)


def test_a_part_of_corrections_only_has_no_outcome() -> None:
    """It ends like any other, but nothing came out of it and it says nothing about costs."""
    tasks = Tasks()
    add(tasks, call(event_type="correction", original_cost_pusd=5), -5)
    tasks.end_silent(NOW + GAP_US)
    row = row_record(KEY, tasks.rows[KEY], 1)
    assert (row["ended"], row["outcome"], row["events"]) == (True, None, 0)
    assert not is_counted(tasks.rows[KEY])


@pytest.mark.parametrize(
    ("fields", "counted"),
    [({}, True), ({"unpriced": 2}, False), ({"cost_pusd": -1}, False),
     ({"input_tokens": -1}, False), ({"events": 0, "unpriced": -1}, False)],
)  # fmt: skip
def test_only_a_priced_part_with_sane_sums_says_what_is_normal(
    fields: dict[str, int], *, counted: bool
) -> None:
    """Corrections may take a part below zero: it is left out of the norm."""
    tasks = Tasks()
    add(tasks, call())
    add(tasks, call())
    for name, value in fields.items():
        setattr(tasks.rows[KEY], name, value)
    assert is_counted(tasks.rows[KEY]) is counted


def test_the_latest_event_decides_outcome_whatever_the_order() -> None:
    """An older event that comes late changes neither the outcome nor the end."""
    tasks = Tasks()
    add(tasks, call(occurred_at=NOW, slo_outcome="good"))
    add(tasks, call(occurred_at=NOW - 9, started_at=NOW - 20, outcome="error", slo_outcome="slow"))
    sums = tasks.rows[KEY]
    assert (sums.outcome, sums.slo_outcome, sums.last_seen_at) == ("ok", "good", NOW)
    assert sums.started_at == NOW - 20


def test_the_check_tells_what_an_event_can_move_at_most() -> None:
    """Alone its cost, in a task all that ever went into it; beyond 64 bits it is refused."""
    tasks = Tasks()
    assert tasks.check(call(), label(7)) == 7
    add(tasks, call(), INT64_MAX - 5)
    assert tasks.check(call(), label(5)) == INT64_MAX
    with pytest.raises(OverflowError):
        tasks.check(call(), label(6))


def test_a_row_that_was_published_and_dropped_in_the_log_is_gone() -> None:
    """Reading dirty, clean and removed states in their order leaves nothing to publish."""
    tasks = Tasks()
    add(tasks, call())
    sums = tasks.rows[KEY]
    tasks.put(KEY, sums)
    assert tasks.dirty == {KEY}
    sums.dirty = False
    tasks.put(KEY, sums)
    assert tasks.dirty == set()
    tasks.drop(KEY)
    assert (tasks.rows, list(tasks.take_dirty())) == ({}, [])


def test_time_due_is_the_next_end_or_leave() -> None:
    """First the session gap, then the time of keeping."""
    tasks = Tasks()
    assert tasks.next_due() is None
    add(tasks, call())
    assert tasks.next_due() == NOW + GAP_US
    tasks.end_silent(NOW + GAP_US)
    assert tasks.next_due() == NOW + KEEP_US + 1


def test_a_context_without_a_task_knows_the_usual_length_only() -> None:
    """Outside of tasks nothing loops and nothing is cached."""
    assert Tasks().context_of(arrived(), None) == Context()
