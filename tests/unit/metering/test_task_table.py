"""Tasks as arrays: their limits, what they forget, where slots and texts are used again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.builders import NOW, arrived
from tests.laws.one_by_one_loops import score_ppm, symbol_of
from tests.task_columns import Added, records_of, run_of, state_of, stored_of

from sluice.errors import WireError
from sluice.metering.baselines import Baseline, Norm
from sluice.metering.columnar.tasks import Evicted, TaskTable
from sluice.metering.loops import number_of
from sluice.metering.packaged import TASK_CALLS
from sluice.metering.tasks import GAP_US, KEEP_US, TaskKey
from sluice.money import INT64_MAX
from sluice.wire.column_types import Items
from sluice.wire.schema import schema

KEY = TaskKey("acme", "t")
LATER = NOW + KEEP_US + 1


def call(number: int = 1, **over: Any) -> dict[str, Any]:
    """A model call of the writer's task."""
    return arrived(number, **{"task_id": "t", "agent_name": "writer"} | over)


def tool(number: int = 1, **over: Any) -> dict[str, Any]:
    """A tool call of the same task, always the same one."""
    base = {"event_type": "tool", "tool_name": "s", "tool_args_hash": "x", "result_hash": "r",
            "input_tokens": 0, "output_tokens": 0}  # fmt: skip
    return call(number, **base | over)


def add(table: TaskTable, *events: dict[str, Any], **about: Any) -> Any:
    """Add events as one run; its effects."""
    return table.add(run_of([Added(event, NOW, **about) for event in events]))


def state(table: TaskTable, key: TaskKey = KEY) -> dict[str, Any]:
    """What a table has of a task."""
    slots = np.array([table._store.slots[key]])
    return records_of(table.state_rows(slots), 1)[0]


def leave(table: TaskTable, time: int = LATER) -> list[Evicted]:
    """End all tasks, publish them, let them go."""
    table.end_silent(time)
    table.take_dirty()
    return table.evict(time)


def test_the_newest_64_parents_are_remembered_in_order_of_use() -> None:
    """A parent that goes on stays among them and keeps its count; one that comes back begins."""
    table = TaskTable()
    for begin in range(0, 70, 10):
        steady = [call(parent_event_id="steady"), call(parent_event_id="p0")]
        add(table, *steady, *(call(parent_event_id=f"p{n}") for n in range(begin, begin + 10)))
    children = state(table)["children"]
    newest = [number_of(f"p{n}") for n in (*range(8, 60), *range(60, 70))]
    places = [child["parent"] for child in children]
    assert len(children) == 64
    assert [place for place in places if place in newest] == newest
    assert {"parent": number_of("steady"), "count": 7} in children
    assert state(table)["fan_out"] == 8  # p0 had a child of its own in the first run


def test_the_newest_64_symbols_are_remembered_in_order() -> None:
    """However often the ring went round, the oldest comes first."""
    table = TaskTable()
    calls = [tool(tool_args_hash=f"x{n}") for n in range(300)]
    for length in (63, 1, 1, 64, 71, 100):
        part, calls = calls[:length], calls[length:]
        add(table, *part)
        newest = [symbol_of(event) for event in part][-64:]
        symbols = state(table)["symbols"]
        assert symbols[-len(newest) :] == newest
        assert len(symbols) == (63 if length == 63 else 64)


def test_a_loop_is_seen_across_the_seam_of_the_ring() -> None:
    """A period of eight three times over, wherever it begins in the ring."""
    table = TaskTable()
    add(table, *(tool(tool_args_hash=f"once{n}") for n in range(117)))
    period = [tool(tool_args_hash=f"again{n}") for n in range(8)]
    assert add(table, *period, *period, *period).looping.tolist() == [False] * 23 + [True]
    slots = table.take_dirty()
    (score,) = (row["loop_score_ppm"] for row in records_of(table.rows(slots, 1), 1))
    assert score == score_ppm(state(table)["symbols"]) > 0


def test_rows_have_every_field_of_the_schema_in_key_order() -> None:
    """What is published is a whole TaskRow; the version is the one given."""
    table = TaskTable()
    add(table, call(task_id="b"), call(task_id="a"), call(task_id="z", tenant_id="abc"))
    slots = table.take_dirty()
    rows = records_of(table.rows(slots, 9), len(slots))
    assert rows[0].keys() == {field["name"] for field in schema("TaskRow")["fields"]}
    assert [(row["tenant_id"], row["task_id"]) for row in rows] == [
        ("abc", "z"), ("acme", "a"), ("acme", "b"),
    ]  # fmt: skip
    assert {row["version"] for row in rows} == {9}
    assert table.take_dirty().tolist() == []


def test_slots_and_blocks_of_tasks_that_left_are_used_again() -> None:
    """A thousand tasks one after the other take the room of one, and nothing of the one before."""
    table, time = TaskTable(), NOW
    for number in range(40):
        events = [tool(task_id=f"t{number}", parent_event_id="a") for _ in range(4)]
        effects = table.add(run_of([Added(event, time) for event in events]))
        assert effects.looping.tolist() == [False, False, False, True]
        assert state(table, TaskKey("acme", f"t{number}"))["fan_out"] == 4
        time += KEEP_US + 1
        assert [task.key.task_id for task in leave(table, time)] == [f"t{number}"]
    store = table._store
    assert (len(table), store.top) == (0, 1)
    assert len(store.arrays.children) == len(store.arrays.symbols) == 8


def test_a_table_grows_and_keeps_what_it_has() -> None:
    """More tasks, parents and symbols than there was room for."""
    table = TaskTable()
    for _ in range(2):
        add(table, *(tool(task_id=f"t{n}", parent_event_id=f"p{n}") for n in range(700)))
    assert len(table) == 700
    for n in (0, 255, 256, 699):
        one = state(table, TaskKey("acme", f"t{n}"))
        assert one["children"] == [{"parent": number_of(f"p{n}"), "count": 2}]
        assert (one["events"], one["symbols"]) == (2, [symbol_of(tool())] * 2)
    slots, gone = table.take_changed()
    assert (len(slots), gone) == (700, [])


def test_texts_that_no_task_has_any_more_are_forgotten() -> None:
    """Outcomes that producers make up do not pile up; those in use keep their texts."""
    table = TaskTable()
    add(table, call(task_id="still", outcome="here", slo_outcome="good"))
    for begin in range(0, 6_000, 500):
        add(table, *(call(outcome=f"made up {n}") for n in range(begin, begin + 500)))
        assert len(table._store.names) < 2_000
    assert state(table)["outcome"] == "made up 5999"
    kept = state(table, TaskKey("acme", "still"))
    assert (kept["outcome"], kept["slo_outcome"], kept["agent_name"]) == ("here", "good", "writer")


def test_texts_of_tasks_that_left_are_forgotten() -> None:
    """Once the tasks are gone, so are their agents' names."""
    table = TaskTable()
    add(table, *(call(task_id=f"t{n}", agent_name=f"agent {n}") for n in range(3_000)))
    assert len(table._store.names) > 3_000
    assert [task.name for task in leave(table)][:2] == ["agent 0", "agent 1"]
    assert len(table._store.names) == 2


def test_the_baseline_of_a_task_is_its_own_agent_s() -> None:
    """An event that names another agent is judged by the task's first one, measured or not."""
    baseline = Baseline(1, {("task", "", None, "reader"): Norm(50, 100, 30)}, {})
    table = TaskTable()
    table.add(run_of([Added(call(), NOW, 10, 0, None)], baseline))
    table.add(run_of([Added(call(agent_name="reader"), NOW, 10, 0, 20)], baseline))
    assert state(table)["baseline_pusd"] == TASK_CALLS * 20
    table.add(run_of([Added(call(task_id="u", agent_name="reader"), NOW, None)], baseline))
    assert state(table, TaskKey("acme", "u"))["baseline_pusd"] == 100


def test_a_baseline_stays_within_64_bits() -> None:
    """An absurd percentile or norm makes the largest amount."""
    table = TaskTable()
    add(table, call(), q95_pusd=9 * 10**18)
    assert state(table)["baseline_pusd"] == INT64_MAX
    absurd = Baseline(1, {("task", "", None, "writer"): Norm(0, 10**30, 30)}, {})
    table.add(run_of([Added(call(task_id="u"), NOW)], absurd))
    assert state(table, TaskKey("acme", "u"))["baseline_pusd"] == INT64_MAX


@pytest.mark.parametrize(
    ("before", "costs", "room"),
    [(None, [INT64_MAX], True), (None, [INT64_MAX, 1], False), (5, [INT64_MAX - 5], True),
     (5, [INT64_MAX - 4], False), (5, [-(INT64_MAX - 4)], False), (5, [None], True)],
)  # fmt: skip
def test_there_is_room_as_long_as_all_that_went_in_fits(
    before: int | None, costs: list[int | None], *, room: bool
) -> None:
    """To the last pico-dollar, taken back or not; other tasks do not matter."""
    table = TaskTable()
    add(table, call(task_id="other"), cost_pusd=INT64_MAX)
    if before is not None:
        add(table, call(), cost_pusd=before)
    run = run_of([Added(call(), NOW, cost) for cost in costs])
    assert table.has_room(run) is room


def test_tokens_have_room_in_both_directions() -> None:
    """A correction may take more than there was, but not below 64 bits."""
    table = TaskTable()
    fix = call(event_type="correction", corrects_event_id="o", input_tokens=-INT64_MAX)
    assert table.has_room(run_of([Added(fix, NOW)]))
    add(table, fix)
    back = call(event_type="correction", corrects_event_id="o", input_tokens=-1)
    assert not table.has_room(run_of([Added(back, NOW)]))
    assert table.has_room(run_of([Added(call(input_tokens=1), NOW), Added(back, NOW)]))


def test_a_run_that_was_asked_about_is_the_one_that_is_added() -> None:
    """Asking about one run and adding another mixes nothing up."""
    table = TaskTable()
    asked, other = run_of([Added(call(), NOW)]), run_of([Added(call(task_id="u"), NOW)])
    assert table.has_room(asked)
    table.add(other)
    assert list(table._store.slots) == [("acme", "u")]


def test_runs_without_tasks_change_nothing() -> None:
    """No rows at all, or none of a task."""
    table = TaskTable()
    for run in (run_of([]), run_of([Added(arrived(), NOW)])):
        assert table.has_room(run)
        assert not any(column.any() for column in table.add(run))
    assert (len(table), table.next_due(), leave(table)) == (0, None, [])


def test_a_task_that_left_and_came_back_is_not_gone() -> None:
    """Only keys without a task are to be removed from what is stored."""
    table = TaskTable()
    add(table, call(), call(task_id="u"))
    assert [task.key.task_id for task in leave(table)] == ["t", "u"]
    add(table, call())
    slots, gone = table.take_changed()
    assert table.state_keys(slots) == [KEY]
    assert gone == [TaskKey("acme", "u")]
    assert table.take_changed()[1] == []


def test_a_dropped_task_waits_for_nothing() -> None:
    """It is neither published nor stored; its slot goes to the next one."""
    table = TaskTable()
    add(table, call(), call(task_id="u"))
    table.drop(KEY)
    table.drop(KEY)
    assert table.state_keys(table.take_dirty()) == [TaskKey("acme", "u")]
    assert table.state_keys(table.take_changed()[0]) == [TaskKey("acme", "u")]
    add(table, call(task_id="v"))
    assert (len(table), table._store.top) == (2, 2)


def test_a_stored_task_replaces_the_one_in_the_table() -> None:
    """Also within one batch: the last row of a key counts; what is dirty is still published."""
    table = TaskTable()
    add(table, call())
    first = stored_of(table, table.take_dirty())[KEY]
    add(table, call(), tool(parent_event_id="a"))
    second = stored_of(table, table.take_changed()[0])[KEY]
    table.load(state_of([second, first]))
    assert (state(table)["events"], state(table)["children"], len(table)) == (1, [], 1)
    assert table.take_dirty().tolist() == []
    table.load(state_of([first, second]))
    assert (state(table)["events"], len(table.take_dirty())) == (3, 1)


def test_a_row_that_is_no_state_is_refused_and_changes_nothing() -> None:
    """A cut row, and one with more parents than a task can have."""
    table = TaskTable()
    add(table, call(), tool(parent_event_id="a"))
    value = stored_of(table, table.take_changed()[0])[KEY]
    with pytest.raises(WireError, match="row 1 cannot be read"):
        table.load(state_of([value, value[:-1]]))
    columns = state_of([value] * 65)
    children = columns.columns["children"]
    assert isinstance(children, Items)
    parents = {"children": children._replace(row=children.row * 0 + 64)}
    columns = columns._replace(columns={**columns.columns, **parents})
    with pytest.raises(WireError, match="more than 64"):
        table.load(columns)
    assert state(table)["events"] == 2


def test_time_due_is_the_next_end_or_leave() -> None:
    """First the session gap, then the time of keeping."""
    table = TaskTable()
    add(table, call())
    assert table.next_due() == NOW + GAP_US
    assert table.end_silent(NOW + GAP_US - 1) == 0
    assert table.end_silent(NOW + GAP_US) == 1
    assert table.next_due() == NOW + KEEP_US + 1


def test_what_a_block_held_before_makes_no_loop() -> None:
    """A new task gets the full ring of one that went to and fro, and goes to and fro twice."""
    table = TaskTable()
    pair = [tool(), tool(tool_args_hash="y")]
    assert add(table, *pair * 32).looping.tolist() == [False] * 5 + [True] * 59
    assert len(leave(table)) == 1
    assert add(table, *pair * 3).looping.tolist() == [False] * 5 + [True]


def test_what_a_model_call_left_in_the_cache_is_known_to_embeddings_too() -> None:
    """Of the same model; an embedding itself leaves nothing, and tools read nothing."""
    table = TaskTable()
    first = call(input_tokens=900, cache_read_input_tokens=500, cache_write_input_tokens=300)
    embedding = call(event_type="embedding")
    other = call(event_type="embedding", response_model="other")
    assert add(table, first, embedding, other, tool(), call()).cached_tokens.tolist() == [
        0, 800, 0, 0, 800,
    ]  # fmt: skip


def test_a_task_leaves_when_its_time_of_keeping_is_over() -> None:
    """Not a microsecond before, and only once it was published as ended."""
    table = TaskTable()
    add(table, call(), cost_pusd=3)
    table.end_silent(LATER)
    assert table.evict(LATER) == []
    table.take_dirty()
    assert table.evict(LATER - 1) == []
    assert table.evict(LATER) == [Evicted(KEY, "writer", 3, 100, counted=True)]


def test_it_is_known_whether_anything_waits() -> None:
    """Published but not stored, stored, gone but not yet removed."""
    table = TaskTable()
    add(table, call())
    waits = [(table.is_dirty(), table.is_changed())]
    for take in (table.take_dirty, table.take_changed, lambda: leave(table), table.take_changed):
        take()
        waits.append((table.is_dirty(), table.is_changed()))
    assert waits == [(True, True), (False, True), (False, False), (False, True), (False, False)]
