"""Tasks as arrays, a run at a time, against tasks as objects, an event at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, arrived
from tests.laws import one_by_one_tasks as one_by_one
from tests.laws.one_by_one_tasks import Judged, Tasks, TaskSums, row_record
from tests.task_columns import Added, records_of, run_of, state_of, stored_of

from sluice.metering.baselines import Baseline, Norm
from sluice.metering.columnar.task_columns import TASK_STATE
from sluice.metering.columnar.tasks import Evicted, TaskTable
from sluice.metering.tasks import TaskKey

_MINUTE = 60_000_000
BASELINES = (
    None,
    Baseline(1, {}, {}),
    Baseline(2, {("task", "", None, "writer"): Norm(5, 30, 40)}, {("chat", "m1"): 400}),
    Baseline(
        3, {("task", "", None, ""): Norm(5, 70, 40), ("task", "", None, "flow"): Norm(0, 0, 9)},
        {("chat", "m2"): 0, ("chat", ""): 7},
    ),
)  # fmt: skip


def _mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * len(others) + list(others))


_events = st.fixed_dictionaries(
    {
        "event_type": st.sampled_from(
            ["inference"] * 3 + ["tool"] * 6 + ["embedding", "gpu_adjustment", "correction"]
        ),
        "task_id": st.sampled_from(["t1"] * 6 + ["t2", "t0", None]),
    },
    optional={
        "tenant_id": _mostly("acme", "beta"),
        "project_id": st.sampled_from(["p1", "p2"]),
        "agent_name": st.sampled_from(["writer", "reader", "", None]),
        "workflow_name": st.sampled_from(["flow", "", None]),
        "attempt": _mostly(1, 0, 2),
        "attempt_kind": _mostly(None, "retry", "hedge"),
        "depth": st.integers(0, 5),
        "parent_event_id": st.sampled_from(["a", "b", "c", ""]),
        "tool_name": _mostly("search", "fetch", None),
        "tool_args_hash": _mostly("x", "y", None),
        "result_hash": _mostly("r", "q", None),
        "outcome": _mostly("ok", "error", "error", "cancelled"),
        "slo_outcome": st.sampled_from(["good", "slow", "", None]),
        "request_model": st.sampled_from(["m1", "m2", ""]),
        "response_model": st.sampled_from(["m1", "m2", "", None]),
        "input_tokens": st.integers(0, 3_000),
        "output_tokens": st.integers(0, 3_000),
        "cache_read_input_tokens": st.integers(0, 500),
        "cache_write_input_tokens": st.integers(0, 500),
        "occurred_at": st.integers(NOW - 5, NOW + 5),
        "started_at": st.integers(NOW - 9, NOW - 5),
        "original_cost_pusd": st.sampled_from([None, 5]),
    },
)
# The same few calls over and over: else nothing would ever loop.
_periods = st.lists(_events, min_size=1, max_size=9)
_rounds = st.tuples(_periods, st.integers(1, 5)).map(lambda drawn: drawn[0] * drawn[1])
_money = st.tuples(
    st.none() | st.integers(-20, 60), st.integers(-9, 9), st.none() | st.integers(0, 6)
)
_gaps = st.sampled_from([0] * 6 + [1, _MINUTE, 10 * _MINUTE, 10 * _MINUTE + 1, 61 * _MINUTE])
_steps = st.one_of(
    st.tuples(st.just("events"), _rounds, st.lists(_money, min_size=1, max_size=7)),
    st.tuples(st.sampled_from(["tick", "publish", "end", "evict", "store", "restore"])),
)


@dataclass
class _Both:
    """The table and the tasks that it must be like."""

    table: TaskTable = field(default_factory=TaskTable)
    tasks: Tasks = field(default_factory=Tasks)
    changed: set[TaskKey] = field(default_factory=set)
    gone: set[TaskKey] = field(default_factory=set)
    stored: dict[TaskKey, bytes] = field(default_factory=dict)

    def add(self, added: list[Added], baseline: Baseline | None) -> None:
        run = run_of(added, baseline)
        assert self.table.has_room(run)
        effects = self.table.add(run)
        found = list(zip(*(column.tolist() for column in effects), strict=True))
        assert found == [self.one(one, baseline) for one in added]

    def one(self, added: Added, baseline: Baseline | None) -> tuple[bool, int, int, int, bool]:
        """The effects of an event by the tasks of one by one."""
        event, cost = added.event, added.cost_pusd
        context = self.tasks.context_of(event, baseline)
        looping, cached, usual = context.looping, context.cached_tokens, context.usual_input or 0
        if event["task_id"] is None:
            return looping, cached, usual, 0, False
        judged = Judged(cost, added.tail_pusd, added.q95_pusd)
        tail = self.tasks.add(event, judged, context, added.time, baseline)
        self.touch(TaskKey(event["tenant_id"], event["task_id"]))
        return looping, cached, usual, tail or 0, tail is not None

    def touch(self, key: TaskKey) -> None:
        self.changed.add(key)
        self.gone.discard(key)

    def publish(self) -> None:
        slots = self.table.take_dirty()
        expected = list(self.tasks.take_dirty())
        rows = records_of(self.table.rows(slots, 7), len(slots))
        assert rows == [row_record(key, sums, 7) for key, sums in expected]
        assert self.table.state_keys(slots) == [key for key, _ in expected]
        self.changed.update(key for key, _ in expected)

    def end(self, time: int) -> None:
        ended = self.tasks.end_silent(time)
        assert self.table.end_silent(time) == len(ended)
        self.changed.update(ended)

    def evict(self, time: int) -> None:
        expected = self.tasks.evict(time)
        assert self.table.evict(time) == [
            Evicted(key, one_by_one.cohort_of_task(sums).tool, sums.cost_pusd, sums.input_tokens,
                    one_by_one.is_counted(sums))
            for key, sums in expected
        ]  # fmt: skip
        self.gone.update(key for key, _ in expected)
        self.changed.difference_update(key for key, _ in expected)

    def store(self) -> None:
        slots, gone = self.table.take_changed()
        written = stored_of(self.table, slots)
        assert (written.keys(), set(gone)) == (self.changed, self.gone)
        for row, key in zip(
            records_of(self.table.state_rows(slots), len(slots)), written, strict=True
        ):
            assert row == _state_record(key, self.tasks.rows[key])
        self.stored |= written
        for key in gone:
            self.stored.pop(key, None)  # it may have come and gone in between
        self.changed, self.gone = set(), set()

    def restore(self) -> None:
        """Go on with a table that knows only what was stored."""
        self.store()
        self.table = TaskTable()
        values = list(self.stored.values())
        self.table.load(state_of(values[::2]))
        self.table.load(state_of(values))
        assert self.table.take_changed()[0].tolist() == []

    def agree(self) -> None:
        assert len(self.table) == len(self.tasks.rows)
        assert self.table.next_due() == self.tasks.next_due()
        live = {key: sums for key, sums in self.tasks.rows.items() if not sums.ended}
        middle = sorted(sums.seen_at for sums in live.values())[len(live) // 2] if live else 0
        recent = sorted(key for key, sums in live.items() if sums.seen_at >= middle)
        assert self.table.seen_since(middle) == recent
        for key in self.tasks.rows:
            seen = one_by_one.look_at(live[key]) if key in live else None
            assert self.table.look(key) == seen


def _state_record(key: TaskKey, sums: TaskSums) -> dict[str, Any]:
    fields = {name: getattr(sums, name) for name in TaskSums.__struct_fields__}
    children = [{"parent": parent, "count": count} for parent, count in sums.children.items()]
    return key._asdict() | fields | {"children": children}


@settings(deadline=None)  # the first one compiles
@given(st.lists(_steps, max_size=12), st.data())
def test_a_table_is_like_tasks_one_by_one(steps: list[Any], data: st.DataObject) -> None:
    """Effects, rows, what is stored and what leaves are the same, wherever runs are cut."""
    both, time = _Both(), NOW
    for kind, *drawn in steps:
        baseline = data.draw(st.sampled_from(BASELINES), label="baseline")
        if kind == "events":
            events, money = drawn
            added = []
            for place, fields in enumerate(events):
                time += data.draw(_gaps, label="gap") if place % 4 == 0 else 0
                cost, tail, q95 = money[place % len(money)]
                event = arrived(place, **{"corrects_event_id": "o"} | fields)
                added.append(Added(event, time, cost, tail, q95))
            cut = data.draw(st.integers(0, len(added)), label="cut")
            both.add(added[:cut], baseline)
            both.add(added[cut:], baseline)
        elif kind == "tick":
            time += data.draw(_gaps, label="gap")
        elif kind in ("end", "evict"):
            getattr(both, kind)(time)
        else:
            getattr(both, kind)()
        both.agree()
    both.publish()
    both.store()


@settings(deadline=None)
@given(st.lists(st.tuples(_events, _money, _gaps), max_size=90), st.integers(1, 40))
def test_runs_of_any_length_give_the_same(drawn: list[Any], length: int) -> None:
    """However many events make a run, and however long the silences between them."""
    both, time, added = _Both(), NOW, []
    for place, (fields, (cost, tail, q95), gap) in enumerate(drawn):
        time += gap
        event = arrived(place, **{"corrects_event_id": "o"} | fields)
        added.append(Added(event, time, cost, tail, q95))
    for begin in range(0, len(added), length):
        both.add(added[begin : begin + length], BASELINES[2])
        both.end(added[begin].time)
        both.publish()
        both.evict(added[begin].time)
        both.agree()
    both.restore()
    both.end(time + 600 * _MINUTE)
    both.publish()
    both.evict(time + 600 * _MINUTE)
    assert len(both.table) == 0


def test_a_state_holds_every_field_of_a_task() -> None:
    """What is added to the sums of a task is stored as well."""
    names = {field["name"] for field in TASK_STATE["fields"]}
    assert names == {*TaskSums.__struct_fields__, *TaskKey._fields}
