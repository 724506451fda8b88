"""Tasks as objects, an event at a time: slow, and easy to see that it is right.

What `TaskTable` does to many events at once is compared with this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from tests.laws.one_by_one_loops import is_looping, score_ppm, symbol_of

from sluice.metering import loops, packaged
from sluice.metering.baselines import Baseline
from sluice.metering.cohorts import Cohort, cohort_of, model_of, task_cohort
from sluice.metering.quantities import REQUEST_TYPES
from sluice.metering.tasks import GAP_US, KEEP_US, TaskKey, TaskLook
from sluice.money import INT64_MAX, checked_sum

_MAX_PARENTS = 64


class Context(NamedTuple):
    """What the event's task and cohort knew before it.

    `looping`: its task repeats itself; `cached_tokens`: input tokens that the task's last call left
    in the provider's cache; `usual_input`: median input_tokens of its cohort, None where unknown.
    """

    looping: bool = False
    cached_tokens: int = 0
    usual_input: int | None = None


class Judged(NamedTuple):
    """What pricing found out about an event: its cost, its own tail, its cohort's threshold."""

    cost_pusd: int | None
    tail_pusd: int
    q95_pusd: int | None


class TaskSums(msgspec.Struct, array_like=True):
    """One part of a task; counts and sums are exact.

    `children` counts calls per parent (hashed, the newest 64 parents); `symbols` are the newest
    tool calls; `cached_tokens` is what the last call left in the cache of `cached_model`.
    """

    opened_at: int
    project_id: str
    agent_name: str | None
    workflow_name: str | None
    started_at: int
    last_seen_at: int
    seen_at: int
    events: int = 0
    steps: int = 0
    tool_calls: int = 0
    depth: int = 0
    fan_out: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_pusd: int = 0
    unpriced: int = 0
    tail_pusd: int = 0
    loop_pusd: int = 0
    gross_pusd: int = 0
    baseline_pusd: int | None = None
    outcome: str = ""
    slo_outcome: str | None = None
    looping: bool = False
    cached_tokens: int = 0
    cached_model: str = ""
    children: dict[int, int] = msgspec.field(default_factory=dict)
    symbols: list[int] = msgspec.field(default_factory=list)
    ended: bool = False
    dirty: bool = False


def look_at(sums: TaskSums) -> TaskLook:
    """What signals see of a task."""
    enough = len(sums.symbols) >= loops.GRAM_WINDOW
    return TaskLook(
        sums.events, sums.tool_calls, sums.fan_out, sums.depth, sums.cost_pusd, sums.loop_pusd,
        sums.baseline_pusd, sums.looping, score_ppm(sums.symbols) if enough else None,
    )  # fmt: skip


class Tasks:
    """The tasks of one partition that are not over, and which of them are to be published."""

    def __init__(self) -> None:
        self.rows: dict[TaskKey, TaskSums] = {}
        self.dirty: set[TaskKey] = set()

    def put(self, key: TaskKey, sums: TaskSums) -> None:
        """Take a task as it was stored."""
        self.rows[key] = sums
        (self.dirty.add if sums.dirty else self.dirty.discard)(key)

    def drop(self, key: TaskKey) -> None:
        """Forget a task."""
        self.rows.pop(key, None)
        self.dirty.discard(key)

    def context_of(self, event: Mapping[str, Any], baseline: Baseline | None) -> Context:
        """What was known before the event; a tool call that repeats counts as part of the loop."""
        usual = usual_input(event, baseline)
        sums = self.rows.get(_key(event)) if event["task_id"] is not None else None
        if sums is None or event["event_type"] == "correction":
            return Context(usual_input=usual)
        symbol = symbol_of(event)
        looping = sums.looping if symbol is None else is_looping([*sums.symbols, symbol])
        reads = event["event_type"] in REQUEST_TYPES and sums.cached_model == model_of(event)
        cached = sums.cached_tokens if reads else 0
        return Context(looping, cached, usual)

    def check(self, event: Mapping[str, Any], judged: Judged) -> int:
        """The most that the event can move the task's tail.

        Raises OverflowError where `add` could not add the event.
        """
        sums, cost = self.rows.get(_key(event)), abs(judged.cost_pusd or 0)
        if sums is None:
            return cost
        checked_sum(sums.input_tokens, event["input_tokens"])
        checked_sum(sums.output_tokens, event["output_tokens"])
        return checked_sum(sums.gross_pusd, cost)

    def add(
        self, event: Mapping[str, Any], judged: Judged, context: Context, time: int,
        baseline: Baseline | None,
    ) -> int | None:  # fmt: skip
        """Add an event at broker time `time`; its share of the task tail, None without baseline.

        `check` comes first.
        """
        key = _key(event)
        sums = self.rows.setdefault(key, _opened(event, time))
        cost = judged.cost_pusd or 0
        sums.gross_pusd += abs(cost)
        sums.input_tokens += event["input_tokens"]
        sums.output_tokens += event["output_tokens"]
        tail_before = _task_tail(sums)
        if sums.baseline_pusd is None:
            sums.baseline_pusd = _baseline_of(sums, judged, baseline)
        sums.cost_pusd += cost
        sums.tail_pusd += judged.tail_pusd
        if event["event_type"] != "correction":
            _count(sums, event, judged, context, time)
        elif event["original_cost_pusd"] is None and judged.cost_pusd is not None:
            sums.unpriced -= 1
        self.touch(key)
        tail = _task_tail(sums)
        return None if tail is None else tail - (tail_before or 0)

    def touch(self, key: TaskKey) -> None:
        """A task is to be published."""
        self.rows[key].dirty = True
        self.dirty.add(key)

    def end_silent(self, time: int) -> list[TaskKey]:
        """Mark tasks that fell silent, to be published once more; return their keys."""
        due = [k for k, s in self.rows.items() if not s.ended and s.seen_at + GAP_US <= time]
        for key in due:
            self.rows[key].ended = True
            self.touch(key)
        return due

    def take_dirty(self) -> Iterator[tuple[TaskKey, TaskSums]]:
        """Tasks to publish now, in key order; they count as published afterwards."""
        for key in sorted(self.dirty):
            self.rows[key].dirty = False
            yield key, self.rows[key]
        self.dirty.clear()

    def evict(self, time: int) -> list[tuple[TaskKey, TaskSums]]:
        """Remove published tasks that are long over and return them."""
        done = [
            (key, sums)
            for key, sums in self.rows.items()
            if sums.ended and not sums.dirty and sums.seen_at + KEEP_US < time
        ]
        for key, _ in done:
            del self.rows[key]
        return sorted(done, key=lambda item: item[0])

    def next_due(self) -> int | None:
        """Broker time at which a task ends or leaves if nothing comes, or None."""
        return min(
            (s.seen_at + (KEEP_US + 1 if s.ended else GAP_US) for s in self.rows.values()),
            default=None,
        )


def cohort_of_task(sums: TaskSums) -> Cohort:
    """The cohort of a task: its agent's, else its workflow's."""
    return task_cohort(sums.agent_name or sums.workflow_name or "")


def is_counted(sums: TaskSums) -> bool:
    """Whether a part says what such tasks cost; one that corrections took below 0 does not."""
    priced = sums.events > max(0, sums.unpriced)
    return priced and sums.cost_pusd >= 0 and sums.input_tokens >= 0


def row_record(key: TaskKey, sums: TaskSums, version: int) -> dict[str, Any]:
    """A TaskRow as it goes on the wire."""
    return {
        **key._asdict(),
        **{name: getattr(sums, name) for name in _PUBLISHED},
        "task_tail_pusd": _task_tail(sums),
        "loop_score_ppm": score_ppm(sums.symbols),
        "outcome": (sums.outcome or None) if sums.ended else None,
        "caps": [],
        "version": version,
    }  # fmt: skip


_PUBLISHED = (
    "opened_at", "project_id", "agent_name", "workflow_name", "events", "steps", "tool_calls",
    "depth", "fan_out", "retries", "input_tokens", "output_tokens", "cost_pusd", "unpriced",
    "tail_pusd", "loop_pusd", "baseline_pusd", "slo_outcome", "ended", "started_at",
    "last_seen_at",
)  # fmt: skip


def usual_input(event: Mapping[str, Any], baseline: Baseline | None) -> int | None:
    """Input length that is usual for an event's model and operation; None where unknown."""
    cohort = cohort_of(event)
    measured = baseline.usual_input(cohort.operation_name, cohort.model) if baseline else None
    if measured is None and event["task_id"] is not None:
        return packaged.TASK_INPUT_TOKENS
    return measured


def _key(event: Mapping[str, Any]) -> TaskKey:
    return TaskKey(event["tenant_id"], event["task_id"])


def _opened(event: Mapping[str, Any], time: int) -> TaskSums:
    return TaskSums(
        opened_at=time, project_id=event["project_id"], agent_name=event["agent_name"],
        workflow_name=event["workflow_name"], started_at=event["started_at"],
        last_seen_at=event["occurred_at"], seen_at=time,
    )  # fmt: skip


def _baseline_of(sums: TaskSums, judged: Judged, baseline: Baseline | None) -> int | None:
    """What such a task normally costs at most: measured, else so many calls of the first one."""
    norm = baseline.norm(cohort_of_task(sums)) if baseline else None
    if norm is not None:
        return norm.q95_pusd
    if judged.q95_pusd is None or judged.cost_pusd is None:
        return None
    return min(packaged.TASK_CALLS * judged.q95_pusd, INT64_MAX)


def _task_tail(sums: TaskSums) -> int | None:
    return None if sums.baseline_pusd is None else max(0, sums.cost_pusd - sums.baseline_pusd)


def _count(
    sums: TaskSums, event: Mapping[str, Any], judged: Judged, context: Context, time: int
) -> None:
    again = event["attempt"] > 1 or event["attempt_kind"] is not None
    sums.events += 1
    sums.unpriced += judged.cost_pusd is None
    sums.retries += again
    sums.steps += not again and event["event_type"] in REQUEST_TYPES
    sums.tool_calls += not again and event["event_type"] == "tool"
    sums.depth = max(sums.depth, event["depth"])
    sums.started_at = min(sums.started_at, event["started_at"])
    if event["occurred_at"] >= sums.last_seen_at:
        sums.last_seen_at, sums.outcome = event["occurred_at"], event["outcome"]
        sums.slo_outcome = event["slo_outcome"] or sums.slo_outcome
    sums.seen_at, sums.ended = time, False
    sums.loop_pusd += (judged.cost_pusd or 0) if context.looping else 0
    _follow(sums, event, context)
    _count_child(sums, event["parent_event_id"])


def _follow(sums: TaskSums, event: Mapping[str, Any], context: Context) -> None:
    symbol = symbol_of(event)
    if symbol is not None:
        sums.symbols = [*sums.symbols, symbol][-loops.MEMORY :]
        sums.looping = context.looping
    if event["event_type"] == "inference":
        sums.cached_tokens = event["cache_read_input_tokens"] + event["cache_write_input_tokens"]
        sums.cached_model = model_of(event)


def _count_child(sums: TaskSums, parent: str | None) -> None:
    if parent is None:
        return
    number = loops.number_of(parent)
    count = sums.children.pop(number, 0) + 1
    sums.children[number] = count
    sums.fan_out = max(sums.fan_out, count)
    if len(sums.children) > _MAX_PARENTS:
        del sums.children[next(iter(sums.children))]
