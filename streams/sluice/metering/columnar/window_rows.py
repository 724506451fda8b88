"""Window rows as columns, as they are published."""

from __future__ import annotations

import numpy as np

from sluice.metering.causes import CAUSES
from sluice.metering.classes import RATE_CLASSES, UNCLASSIFIED
from sluice.metering.columnar import sparse
from sluice.metering.columnar.buckets import histogram
from sluice.metering.columnar.columns import whole
from sluice.metering.columnar.sparse import Found
from sluice.metering.columnar.window_layout import (
    CAUSES_AT,
    KEY_NAMES,
    KNOWN,
    LABEL_STEP,
    OUTCOMES,
    RISK_FLAGS,
    ROLLBACK_REASONS,
    SLO_OUTCOMES,
    SUMS,
    TASKED,
    WAYS,
)
from sluice.metering.columnar.windows import WindowTable, versions_of
from sluice.metering.quantities import MEASURED, TOKENS
from sluice.metering.windows import watermark
from sluice.wire.column_types import AnyColumn, Coded, Ints, Items, Numbers, Single

CLASSES = (*RATE_CLASSES, UNCLASSIFIED)
_CLASS_RANK = np.argsort(np.argsort(np.array(CLASSES))).astype(np.int64)
SUM_COLUMNS = {name: place for place, name in enumerate(SUMS)}
_PLAIN = (
    "events", "requests", *TOKENS, "cost_pusd", "unpriced", "corrections", "corrected_pusd",
    "clamped", "body_pusd", "shoulder_pusd", "tail_pusd", "good", "refused", "averted_pusd",
    "packaged", "unlabelled", "revision",
)  # fmt: skip
_LABELS = (("outcomes", OUTCOMES), ("slo_outcomes", SLO_OUTCOMES),
           ("rollback_reasons", ROLLBACK_REASONS), ("risk_flags", RISK_FLAGS))  # fmt: skip


def row_columns(table: WindowTable, slots: Ints, time: int, version: int) -> dict[str, AnyColumn]:
    """WindowRows that cover the input below `version`, at broker time `time` (µs)."""
    sums = table.amounts(slots)
    book, baseline = versions_of(table, slots)
    ones = np.ones(len(slots), dtype=np.int64)
    tasked = (table.rows.state[slots] & np.uint8(TASKED)) != 0
    of = {name: sums[:, SUM_COLUMNS[name]] for name in (*TOKENS, *_PLAIN)}
    cached = of["cache_read_input_tokens"] + of["cache_write_input_tokens"]
    return {
        **identities(table, slots),
        "shard": whole(0 * ones),
        **{name: whole(of[name]) for name in _PLAIN},
        "input_uncached_tokens": whole(of["input_tokens"] - cached),
        "output_text_tokens": whole(of["output_tokens"] - of["reasoning_output_tokens"]),
        **_measured(sums),
        "task_tail_pusd": Numbers(sums[:, SUM_COLUMNS["task_tail_pusd"]], tasked),
        **_lists(table, slots),
        "price_book_version": book,
        "baseline_version": baseline,
        "watermark": whole(watermark(time) * ones),
        "version": whole(version * ones),
    }


def identities(table: WindowTable, slots: Ints) -> dict[str, AnyColumn]:
    """The fields that tell rows apart."""
    names = table.rows.names[slots].astype(np.int64)
    coded = {name: table.names.coded(names[:, place]) for place, name in enumerate(KEY_NAMES)}
    return {**coded, "window_start": whole(table.rows.start[slots])}


def _measured(sums: Ints) -> dict[str, AnyColumn]:
    return {
        name: Numbers(sums[:, SUM_COLUMNS[name]], (sums[:, KNOWN] >> kind & 1) != 0)
        for kind, name in enumerate(MEASURED)
    }


def _lists(table: WindowTable, slots: Ints) -> dict[str, AnyColumn]:
    rows, entries = table.rows, table.entries
    classes = sparse.collect(rows.classes, slots, entries)
    causes = classes.where(classes.key >= CAUSES_AT).ordered()
    classes = classes.where(classes.key < CAUSES_AT)
    classes = classes.ordered(_CLASS_RANK[classes.key])
    cause = Coded(causes.key - CAUSES_AT, list(CAUSES))
    return {
        "usage_by_class": Items(classes.row, {
            "key": Coded(classes.key, list(CLASSES)), "quantity": whole(classes.first),
            "cost_pusd": whole(classes.second),
        }, is_plain=False),
        "overhead_by_cause": _nonzero(causes.row, cause, causes.first),
        "tail_by_cause": _nonzero(causes.row, cause, causes.second),
        "latency_histogram": histogram(sparse.collect_ways(rows.latency, slots, entries, WAYS)),
        "cost_histogram": histogram(sparse.collect_ways(rows.cost, slots, entries, WAYS)),
        **_labels(table, sparse.collect(rows.labels, slots, entries)),
    }  # fmt: skip


def _nonzero(row: Ints, key: Coded, value: Ints) -> Items:
    kept = value != 0
    keys = Coded(key.codes[kept], key.values)
    return Items(row[kept], {"key": keys, "value": whole(value[kept])}, is_plain=False)


def _labels(table: WindowTable, found: Found) -> dict[str, AnyColumn]:
    kind, label = found.key // LABEL_STEP, found.key % LABEL_STEP
    found = Found(found.row, label, found.first, kind)
    found = found.ordered(table.names.ranks()[label])
    lists: dict[str, AnyColumn] = {}
    for name, wanted in _LABELS:
        one = found.where(found.second == wanted)
        fields: dict[str, Single] = {
            "key": table.names.coded(one.key), "value": whole(one.first),
        }  # fmt: skip
        lists[name] = Items(one.row, fields, is_plain=False)
    return lists
