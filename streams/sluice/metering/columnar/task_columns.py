"""The columns of tasks: as rows to publish, and as the rows that the meter stores to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sluice.errors import WireError
from sluice.metering.columnar import task_layout as layout
from sluice.metering.columnar import task_upkeep as upkeep
from sluice.metering.columnar.columns import whole
from sluice.metering.columnar.names import EMPTY, NONE
from sluice.metering.columnar.task_layout import Store
from sluice.metering.columnar.task_store import TaskStore
from sluice.metering.tasks import TaskKey
from sluice.wire.column_types import Bools, Coded, Column, Columns, Ints, Items, Numbers, Texts

_AMOUNTS = {
    "opened_at": layout.OPENED_AT, "started_at": layout.STARTED_AT,
    "last_seen_at": layout.LAST_SEEN_AT, "events": layout.EVENTS, "steps": layout.STEPS,
    "tool_calls": layout.TOOL_CALLS, "fan_out": layout.FAN_OUT, "retries": layout.RETRIES,
    "input_tokens": layout.INPUT_TOKENS, "output_tokens": layout.OUTPUT_TOKENS,
    "cost_pusd": layout.COST_PUSD, "unpriced": layout.UNPRICED, "tail_pusd": layout.TAIL_PUSD,
    "loop_pusd": layout.LOOP_PUSD,
}  # fmt: skip
_HIDDEN_AMOUNTS = {
    "seen_at": layout.SEEN_AT, "gross_pusd": layout.GROSS_PUSD,
    "cached_tokens": layout.CACHED_TOKENS,
}  # fmt: skip
_TEXTS = {
    "project_id": layout.PROJECT, "agent_name": layout.AGENT,
    "workflow_name": layout.WORKFLOW, "slo_outcome": layout.SLO_OUTCOME,
}  # fmt: skip
_HIDDEN_TEXTS = {"outcome": layout.OUTCOME, "cached_model": layout.CACHED_MODEL}
_FLAGS = {"ended": layout.ENDED, "dirty": layout.DIRTY, "looping": layout.LOOPING}
_NULLABLE_TEXTS = ("agent_name", "workflow_name", "slo_outcome")


def _fields(kind: Any, names: Mapping[str, int], nullable: tuple[str, ...] = ()) -> list[Any]:
    return [{"name": n, "type": ["null", kind] if n in nullable else kind} for n in names]


TASK_STATE: dict[str, Any] = {
    "type": "record",
    "name": "TaskState",
    "fields": [
        {"name": "tenant_id", "type": "string"},
        {"name": "task_id", "type": "string"},
        *_fields("long", _AMOUNTS | _HIDDEN_AMOUNTS),
        {"name": "depth", "type": "int"},
        {"name": "baseline_pusd", "type": ["null", "long"]},
        *_fields("string", _TEXTS | _HIDDEN_TEXTS, _NULLABLE_TEXTS),
        *_fields("boolean", _FLAGS),
        {"name": "children", "type": {"type": "array", "items": {
            "type": "record", "name": "Child", "fields": [
                {"name": "parent", "type": "long"}, {"name": "count", "type": "long"},
            ]}}},
        {"name": "symbols", "type": {"type": "array", "items": "long"}},
    ],
}  # fmt: skip


def task_columns(store: TaskStore, slots: Ints, version: int) -> dict[str, Column | Coded]:
    """TaskRows of some slots."""
    arrays = store.arrays
    amounts, marks = arrays.amounts[slots], arrays.marks[slots]
    ended = (marks[:, layout.FLAGS] & layout.ENDED) != 0
    outcome = marks[:, layout.OUTCOME].astype(np.int64)
    over = amounts[:, layout.COST_PUSD] - amounts[:, layout.BASELINE_PUSD]
    costly = amounts[:, layout.COST_PUSD] > amounts[:, layout.BASELINE_PUSD]
    score = upkeep.scores(arrays, slots)
    known = score >= 0
    return {
        **_shared(store, slots, amounts, marks),
        "task_tail_pusd": _judged(marks, np.where(costly, over, 0)),
        "loop_score_ppm": Numbers(np.where(known, score, 0), known),
        "outcome": store.names.coded(np.where(ended & (outcome != EMPTY), outcome, NONE)),
        "ended": _flag(marks, layout.ENDED),
        "caps": _no_caps(),
        "version": whole(np.full(len(slots), version, dtype=np.int64)),
    }


def state_columns(store: TaskStore, slots: Ints) -> dict[str, Column | Coded]:
    """Rows of TASK_STATE of some slots."""
    amounts, marks = store.arrays.amounts[slots], store.arrays.marks[slots]
    return {
        **_shared(store, slots, amounts, marks),
        **{name: whole(amounts[:, column]) for name, column in _HIDDEN_AMOUNTS.items()},
        **{name: store.names.coded(marks[:, column]) for name, column in _HIDDEN_TEXTS.items()},
        **{name: _flag(marks, flag) for name, flag in _FLAGS.items()},
        "children": _children(store.arrays, marks),
        "symbols": _symbols(store.arrays, marks),
    }


def _shared(
    store: TaskStore, slots: Ints, amounts: Ints, marks: layout.Marks
) -> dict[str, Column | Coded]:
    keys = store.keys_of(slots)
    tenants = {key.tenant_id: None for key in keys}
    codes = dict(zip(tenants, range(len(tenants)), strict=True))
    code = np.fromiter((codes[key.tenant_id] for key in keys), dtype=np.int64, count=len(keys))
    return {
        "tenant_id": Coded(code, list(tenants)),
        "task_id": Coded(np.arange(len(keys)), [key.task_id for key in keys]),
        **{name: whole(amounts[:, column]) for name, column in _AMOUNTS.items()},
        **{name: store.names.coded(marks[:, column]) for name, column in _TEXTS.items()},
        "depth": whole(marks[:, layout.DEPTH].astype(np.int64)),
        "baseline_pusd": _judged(marks, amounts[:, layout.BASELINE_PUSD]),
    }


def _has(marks: layout.Marks, flag: int) -> Bools:
    found: Bools = (marks[:, layout.FLAGS] & flag) != 0
    return found


def _flag(marks: layout.Marks, flag: int) -> Numbers:
    has = _has(marks, flag)
    return Numbers(has.astype(np.int64), np.ones(len(has), dtype=np.bool_), is_boolean=True)


def _judged(marks: layout.Marks, values: Ints) -> Numbers:
    known = _has(marks, layout.JUDGED)
    return Numbers(np.where(known, values, 0), known)


def _no_caps() -> Items:
    nothing = np.zeros(0, dtype=np.int64)
    keys = Texts(np.zeros(0, dtype=np.uint8), nothing, nothing)
    return Items(nothing, {"key": keys, "value": whole(nothing)}, is_plain=False)


def _entries(lengths: Ints) -> tuple[Ints, Ints]:
    """Row and place in its list of every entry of lists of these lengths."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    begins = np.cumsum(lengths) - lengths
    return row, np.arange(len(row)) - begins[row]


def _children(arrays: Store, marks: layout.Marks) -> Items:
    row, place = _entries(marks[:, layout.PARENTS].astype(np.int64))
    block = marks[row, layout.CHILDREN]
    fields: dict[str, Texts | Numbers] = {
        "parent": whole(arrays.children[block, place]),
        "count": whole(arrays.children[block, layout.MEMORY + place]),
    }
    return Items(row, fields, is_plain=False)


def _symbols(arrays: Store, marks: layout.Marks) -> Items:
    end = marks[:, layout.SYMBOLS_END].astype(np.int64)
    length = np.minimum(end, layout.MEMORY)
    row, place = _entries(length)
    place = (end - length)[row] + place
    symbols = arrays.symbols[marks[row, layout.SYMBOLS], place % layout.MEMORY]
    return Items(row, {"value": whole(symbols)}, is_plain=True)


def load_state(store: TaskStore, columns: Columns) -> list[TaskKey]:
    """Take rows of TASK_STATE, of each key the last one; the keys.

    Raises WireError where a row cannot be read or has longer lists than were ever written.
    """
    if not columns.whole.all():
        raise WireError("task_state", f"row {int(np.argmin(columns.whole))} cannot be read")
    found = columns.columns
    keys = [TaskKey(*pair) for pair in zip(*(_texts_of(found[n]) for n in _KEY), strict=True)]
    last = {key: row for row, key in enumerate(keys)}
    rows = np.array(sorted(last.values()), dtype=np.int64)
    taken = {name: column.take(rows) for name, column in found.items()}
    lists = {name: _items(taken[name], len(rows)) for name in ("children", "symbols")}
    chosen = [keys[row] for row in rows.tolist()]
    store.free(store.slots_in_use(chosen))
    slots = store.slots_of(chosen)
    _load_rows(store, slots, taken)
    _load_lists(store, slots, lists)
    return chosen


_KEY = ("tenant_id", "task_id")


def _texts_of(column: Column) -> list[str]:
    if not isinstance(column, Texts):
        raise WireError("task_state", "a key that is no text")
    texts: list[str] = column.array().to_pylist()
    return texts


def _items(column: Column, rows: int) -> Items:
    if not isinstance(column, Items):
        raise WireError("task_state", "a list is missing")
    if np.bincount(column.row, minlength=rows).max(initial=0) > layout.MEMORY:
        raise WireError("task_state", f"a list of more than {layout.MEMORY} entries")
    return column


def _load_rows(store: TaskStore, slots: Ints, columns: Mapping[str, Column]) -> None:
    amounts = np.zeros((len(slots), layout.AMOUNTS), dtype=np.int64)
    marks = np.zeros((len(slots), layout.MARKS), dtype=np.int32)
    for name, place in (_AMOUNTS | _HIDDEN_AMOUNTS).items():
        amounts[:, place] = _number(columns, name).value
    baseline = _number(columns, "baseline_pusd")
    amounts[:, layout.BASELINE_PUSD] = baseline.value
    for name, place in (_TEXTS | _HIDDEN_TEXTS).items():
        column = columns[name]
        if isinstance(column, Texts):
            marks[:, place] = store.names.numbers(column.coded())
    marks[:, layout.DEPTH] = _number(columns, "depth").value
    flags = layout.LIVE + layout.JUDGED * baseline.known.astype(np.int64)
    for name, flag in _FLAGS.items():
        flags += flag * _number(columns, name).value
    marks[:, layout.FLAGS] = flags
    store.put(slots, amounts, marks)


def _number(columns: Mapping[str, Column], name: str) -> Numbers:
    column = columns[name]
    if not isinstance(column, Numbers):
        raise WireError("task_state", f"{name} is no number")
    return column


def _load_lists(store: TaskStore, slots: Ints, lists: Mapping[str, Items]) -> None:
    counts = {name: np.bincount(items.row, minlength=len(slots)) for name, items in lists.items()}
    blocks = {name: np.flatnonzero(count) for name, count in counts.items()}
    store.reserve(len(blocks["children"]), len(blocks["symbols"]))
    arrays = store.arrays
    for name, count, block, target, stack, height in (
        ("children", layout.PARENTS, layout.CHILDREN, arrays.children, arrays.free_children,
         layout.FREE_CHILDREN),
        ("symbols", layout.SYMBOLS_END, layout.SYMBOLS, arrays.symbols, arrays.free_symbols,
         layout.FREE_SYMBOLS),
    ):  # fmt: skip
        having = blocks[name]
        arrays.counts[height] -= len(having)
        free = int(arrays.counts[height])
        arrays.marks[slots[having], block] = stack[free : free + len(having)]
        arrays.marks[slots, count] = counts[name]
        row, place = _entries(counts[name])
        of = arrays.marks[slots[row], block]
        for at, column in enumerate(lists[name].fields.values()):
            if isinstance(column, Numbers):
                target[of, at * layout.MEMORY + place] = column.value
