"""Window rows as columns, as the meter's changelog keeps them and gives them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from sluice.metering.causes import CAUSES
from sluice.metering.columnar import sparse, window_upkeep
from sluice.metering.columnar.buckets import buckets
from sluice.metering.columnar.columns import coded_of, ends, whole
from sluice.metering.columnar.sparse import NOTHING, Found
from sluice.metering.columnar.window_layout import (
    CAUSES_AT,
    CLOSED,
    DIRTY,
    KEY_NAMES,
    LABEL_STEP,
    SUMS,
    TASKED,
    WAYS,
    Keys,
    Listed,
    Stored,
)
from sluice.metering.columnar.window_rows import (
    CLASSES,
    SUM_COLUMNS,
    identities,
)
from sluice.metering.columnar.windows import WindowTable, versions_of
from sluice.metering.windows import WindowKey
from sluice.wire.column_types import (
    AnyColumn,
    Coded,
    Column,
    Ints,
    Items,
    Numbers,
    Single,
    Texts,
)


def _longs(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "type": "long"} for name in names]


def _records(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    kind = {"type": "record", "name": f"Stored_{name}", "fields": list(fields)}
    return {"name": name, "type": {"type": "array", "items": kind}}


def _text(name: str) -> dict[str, Any]:
    return {"name": name, "type": "string"}


WINDOW_KEY: dict[str, Any] = {
    "type": "record", "name": "WindowKey",
    "fields": [*map(_text, KEY_NAMES), *_longs("window_start")],
}  # fmt: skip
WINDOW_STATE: dict[str, Any] = {
    "type": "record", "name": "WindowState",
    "fields": [
        *WINDOW_KEY["fields"], *_longs(*SUMS, "state"),
        *({"name": name, "type": ["null", "string"]}
          for name in ("price_book_version", "baseline_version")),
        _records("classes", _text("key"), *_longs("quantity", "cost_pusd")),
        _records("causes", _text("key"), *_longs("overhead_pusd", "tail_pusd")),
        _records("latency", *_longs("bucket", "count", "cost_pusd")),
        _records("cost", *_longs("bucket", "count", "cost_pusd")),
        _records("labels", _text("key"), *_longs("kind", "value")),
    ],
}  # fmt: skip
_KEPT_STATE = np.uint8(CLOSED | DIRTY | TASKED)


def key_columns(keys: Sequence[WindowKey]) -> dict[str, AnyColumn]:
    """Identities of rows as columns of WINDOW_KEY."""
    texts = {name: coded_of([str(getattr(key, name)) for key in keys]) for name in KEY_NAMES}
    start = np.array([key.window_start for key in keys], dtype=np.int64)
    return {**texts, "window_start": whole(start)}


def state_columns(table: WindowTable, slots: Ints) -> dict[str, AnyColumn]:
    """Rows as columns of WINDOW_STATE: all that is needed to go on with them."""
    rows, entries, sums = table.rows, table.entries, table.amounts(slots)
    book, baseline = versions_of(table, slots)
    classes = sparse.collect(rows.classes, slots, entries)
    causes = classes.where(classes.key >= CAUSES_AT)
    classes = classes.where(classes.key < CAUSES_AT)
    labels = sparse.collect(rows.labels, slots, entries)
    return {
        **identities(table, slots),
        **{name: whole(sums[:, place]) for name, place in SUM_COLUMNS.items()},
        "state": whole((rows.state[slots] & _KEPT_STATE).astype(np.int64)),
        "price_book_version": book,
        "baseline_version": baseline,
        "classes": _items(classes, Coded(classes.key, list(CLASSES)), "quantity", "cost_pusd"),
        "causes": _items(causes, Coded(causes.key - CAUSES_AT, list(CAUSES)),
                         "overhead_pusd", "tail_pusd"),
        "latency": buckets(sparse.collect_ways(rows.latency, slots, entries, WAYS)),
        "cost": buckets(sparse.collect_ways(rows.cost, slots, entries, WAYS)),
        "labels": Items(labels.row, {
            "key": table.names.coded(labels.key % LABEL_STEP),
            "kind": whole(labels.key // LABEL_STEP), "value": whole(labels.first),
        }, is_plain=False),
    }  # fmt: skip


def _items(found: Found, key: Coded, first: str, second: str) -> Items:
    fields: dict[str, Single] = {
        "key": key, first: whole(found.first), second: whole(found.second)
    }  # fmt: skip
    return Items(found.row, fields, is_plain=False)


def load(table: WindowTable, columns: Mapping[str, Column], rows: int) -> None:
    """Take rows of WINDOW_STATE, in the order of their log; a later one replaces an earlier."""
    slots = table.open(_stored_keys(table, columns))
    stored = _stored(table, columns, rows)
    listed = (stored.classes, stored.latency, stored.cost, stored.labels)
    table.entries = sparse.with_room(table.entries, sum(len(one.key) for one in listed))
    window_upkeep.load(table.rows, table.entries, slots, stored)


def drop(table: WindowTable, columns: Mapping[str, Column]) -> None:
    """Forget the rows whose keys these columns of WINDOW_KEY are."""
    slots = table.find(_stored_keys(table, columns))
    window_upkeep.leave(table.rows, table.entries, np.unique(slots[slots >= 0]))


def _stored_keys(table: WindowTable, columns: Mapping[str, Column]) -> Keys:
    ids = [table.names.numbers(_texts(columns[name]).coded()) for name in KEY_NAMES]
    return Keys(np.stack(ids, axis=1), _numbers(columns["window_start"]))


def _stored(table: WindowTable, columns: Mapping[str, Column], rows: int) -> Stored:
    sums = np.stack([_numbers(columns[name]) for name in SUMS], axis=1)
    book, baseline = (
        _versions(table, _texts(columns[name]))
        for name in ("price_book_version", "baseline_version")
    )
    return Stored(
        np.ascontiguousarray(sums), _numbers(columns["state"]).astype(np.uint8), book, baseline,
        _classes(columns, rows), _histogram_of(columns["latency"], rows),
        _histogram_of(columns["cost"], rows), _labels_of(table, columns["labels"], rows),
    )  # fmt: skip


def _versions(table: WindowTable, texts: Texts) -> Ints:
    return np.where(texts.length < 0, NOTHING, table.names.numbers(texts.coded()))


def _classes(columns: Mapping[str, Column], rows: int) -> Listed:
    """Classes and causes are one chain of entries."""
    classes, causes = _list(columns["classes"]), _list(columns["causes"])
    row = np.concatenate([classes.row, causes.row])
    key = np.concatenate([_places(classes, CLASSES), _places(causes, CAUSES) + CAUSES_AT])
    first = np.concatenate([_field(classes, "quantity"), _field(causes, "overhead_pusd")])
    second = np.concatenate([_field(classes, "cost_pusd"), _field(causes, "tail_pusd")])
    order = np.argsort(row, kind="stable")
    return Listed(ends(row, rows), key[order], first[order], second[order])


def _histogram_of(column: Column, rows: int) -> Listed:
    items = _list(column)
    return Listed(ends(items.row, rows), *(_field(items, n) for n in ("bucket", "count",
                                                                       "cost_pusd")))  # fmt: skip


def _labels_of(table: WindowTable, column: Column, rows: int) -> Listed:
    items = _list(column)
    if not len(items.row):
        none = np.zeros(0, dtype=np.int64)
        return Listed(ends(items.row, rows), none, none, none)
    ids = table.names.numbers(_texts(items.fields["key"]).coded())
    value = _field(items, "value")
    return Listed(ends(items.row, rows), _field(items, "kind") * LABEL_STEP + ids, value, 0 * value)


def _places(items: Items, names: Sequence[str]) -> Ints:
    if not len(items.row):
        return np.zeros(0, dtype=np.int64)
    coded = _texts(items.fields["key"]).coded()
    places = [names.index(name or "") for name in coded.values]
    return np.array(places, dtype=np.int64)[coded.codes]


def _field(items: Items, name: str) -> Ints:
    return _numbers(items.fields[name]) if len(items.row) else np.zeros(0, dtype=np.int64)


def _list(column: Column) -> Items:
    return cast("Items", column)


def _texts(column: Any) -> Texts:
    return cast("Texts", column)


def _numbers(column: Any) -> Ints:
    return cast("Numbers", column).value
