"""A run of usage events made ready for the loop that adds them to their tasks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sluice.metering import loops, packaged
from sluice.metering.baselines import Baseline
from sluice.metering.columnar import task_layout as layout
from sluice.metering.columnar.names import Names
from sluice.metering.columnar.task_kernels import gather, put_kinds
from sluice.metering.columnar.task_layout import Kinds, Moves
from sluice.metering.columnar.usage import Usage, grouped
from sluice.metering.quantities import REQUEST_TYPES
from sluice.metering.tasks import TaskKey
from sluice.money import INT64_MAX
from sluice.wire.column_types import Bools, Coded, Ints


class TaskRun(NamedTuple):
    """Events in their order, checked and deduplicated, none of them of an admission point.

    `time`: broker time, µs; `cost_pusd`: 0 where not `priced`; `tail_pusd`: the event's own band;
    `q95_pusd`: its threshold where `known`.
    """

    usage: Usage
    time: Ints
    cost_pusd: Ints
    priced: Bools
    tail_pusd: Ints
    q95_pusd: Ints
    known: Bools
    baseline: Baseline | None


class TaskEffects(NamedTuple):
    """What tasks tell about each event: as the fields of `causes.Contexts`, and the task tail.

    `usual_input` is 0 where unknown; `task_tail_pusd` 0 where not known.
    """

    looping: Bools
    cached_tokens: Ints
    usual_input: Ints
    task_tail_pusd: Ints
    task_tail_known: Bools


class TaskRows(NamedTuple):
    """The rows of a run that belong to tasks: their keys, the `group` of each, first of each."""

    rows: Ints
    keys: list[TaskKey]
    group: Ints
    first: Ints


def task_rows(usage: Usage) -> TaskRows:
    """Which events belong to which task."""
    rows = np.flatnonzero(usage.text("task_id").length >= 0)
    tenants, tasks = usage.coded_at("tenant_id", rows), usage.coded_at("task_id", rows)
    groups = grouped(tasks.codes, tenants.codes)
    pairs = zip(tenants.codes[groups.first].tolist(), tasks.codes[groups.first].tolist(),
                strict=True)  # fmt: skip
    keys = [TaskKey(tenants.values[a] or "", tasks.values[b] or "") for a, b in pairs]
    return TaskRows(rows, keys, groups.of, groups.first)


def moves_of(run: TaskRun) -> Moves:
    """What the events of a run move the sums of their tasks by."""
    tokens = (run.usage.number(name).value for name in ("input_tokens", "output_tokens"))
    return Moves(np.ascontiguousarray(run.cost_pusd), run.priced, *tokens)


def events_of(run: TaskRun, rows: Ints, names: Names) -> Ints:
    """Rows of a run as the loop reads them."""
    usage = run.usage
    events = np.empty((len(rows), layout.EVENT_COLUMNS), dtype=np.int64)
    given = (run.time, run.cost_pusd, run.tail_pusd, run.q95_pusd)
    amounts = (usage.number(name).value for name in _AMOUNTS)
    gather((*map(np.ascontiguousarray, given), *amounts), rows, events)
    put_kinds(_kinds(run), rows, _types(usage, rows), events)
    for column, name in _TEXTS:
        events[:, column] = names.numbers(usage.coded_at(name, rows))
    events[:, layout.MODEL_OF] = names.numbers(usage.models().take(rows))
    is_tool = (events[:, layout.KIND] & layout.TOOL) != 0
    failed = events[:, layout.OUTCOME_OF] == names.number("error")
    events[:, layout.SYMBOL] = _symbols(usage, rows, is_tool, failed)
    events[:, layout.PARENT] = _parents(usage, rows)
    return events


# From column OCCURRED on.
_AMOUNTS = ("occurred_at", "started_at", "input_tokens", "output_tokens",
            "cache_read_input_tokens", "cache_write_input_tokens", "depth")  # fmt: skip
_TEXTS = (
    (layout.PROJECT_OF, "project_id"), (layout.AGENT_OF, "agent_name"),
    (layout.WORKFLOW_OF, "workflow_name"), (layout.OUTCOME_OF, "outcome"),
    (layout.SLO_OF, "slo_outcome"),
)  # fmt: skip
_KINDS = {
    **dict.fromkeys(REQUEST_TYPES, layout.REQUEST),
    "inference": layout.REQUEST | layout.INFERENCE,
    "tool": layout.TOOL,
    "correction": layout.CORRECTION,
}


def _types(usage: Usage, rows: Ints) -> Ints:
    types = usage.coded_at("event_type", rows)
    kinds = [_KINDS.get(value or "", 0) for value in types.values]
    return np.array(kinds, dtype=np.int64)[types.codes]


def _kinds(run: TaskRun) -> Kinds:
    number, text = run.usage.number, run.usage.text
    return Kinds(number("attempt").value, text("attempt_kind").length, run.priced, run.known,
                 number("original_cost_pusd").known)  # fmt: skip


def _symbols(usage: Usage, rows: Ints, is_tool: Bools, failed: Bools) -> Ints:
    """Symbols of tool calls as `loops` says; -1 where there is none."""
    found = np.full(len(rows), -1, dtype=np.int64)
    if not is_tool.any():
        return found
    known = is_tool & (usage.text("tool_args_hash").length[rows] >= 0)
    known &= failed | (usage.text("result_hash").length[rows] >= 0)
    calls = np.flatnonzero(known)
    columns = [usage.coded_at(name, rows[calls]) for name in _CALL]
    groups = grouped(*(column.codes for column in columns))
    numbers = [loops.call_number(*_texts(columns, place)) for place in groups.first.tolist()]
    found[calls] = np.array(numbers, dtype=np.int64)[groups.of] | failed[calls]
    return found


_CALL = ("tool_name", "tool_args_hash", "result_hash")


def _texts(columns: list[Coded], place: int) -> list[str | None]:
    return [column.values[column.codes[place]] for column in columns]


def _parents(usage: Usage, rows: Ints) -> Ints:
    """Numbers of the parents; -1 for None."""
    if not (usage.text("parent_event_id").length[rows] >= 0).any():
        return np.full(len(rows), -1, dtype=np.int64)
    parents = usage.coded_at("parent_event_id", rows)
    numbers = [-1 if text is None else loops.number_of(text) for text in parents.values]
    return np.array(numbers, dtype=np.int64)[parents.codes]


def usual_inputs(usage: Usage, baseline: Baseline | None) -> Ints:
    """Input lengths that are usual, measured or those of agents; 0 where unknown."""
    in_task = usage.text("task_id").length >= 0
    otherwise = np.where(in_task, packaged.TASK_INPUT_TOKENS, 0)
    if baseline is None or not baseline.contexts:
        return otherwise
    columns = [usage.coded("operation_name"), usage.models()]
    groups = grouped(*(column.codes for column in columns))
    measured = []
    for place in groups.first.tolist():
        operation, model = _texts(columns, place)
        usual = baseline.usual_input(operation or "", model or "")
        measured.append((min(usual or 0, INT64_MAX), usual is not None))
    found = np.array(measured, dtype=np.int64).reshape(-1, 2)[groups.of]
    return np.where(found[:, 1] != 0, found[:, 0], otherwise)
