"""The values of a chunk decoded together: usage events as columns first, all else one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sluice.errors import WireError
from sluice.wire.codec import decode
from sluice.wire.column_types import Bools, Coded, Column, Columns, Items, Numbers, Single
from sluice.wire.columns import is_readable, read_usage

# Below this the steps of the columnar reader cost more than they save.
_WORTHWHILE = 48

Decoded = tuple[str, dict[str, Any]] | WireError


def decode_all(values: Sequence[bytes | None]) -> list[Decoded]:
    """What `decode` gives for each value, or the WireError that it raises."""
    readable = [place for place, value in enumerate(values) if is_readable(value)]
    found: dict[int, dict[str, Any]] = {}
    if len(readable) >= _WORTHWHILE:
        columns = read_usage([values[place] or b"" for place in readable])
        found = {readable[row]: event for row, event in events_of(columns)}
    return [
        ("UsageEvent", found[place]) if place in found else _one(value)
        for place, value in enumerate(values)
    ]


def events_of(columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row and fields of every event that was read whole."""
    names = list(columns.columns)
    lists = [_values(column, columns.whole) for column in columns.columns.values()]
    rows = np.flatnonzero(columns.whole).tolist()
    for row, fields in zip(rows, zip(*lists, strict=True), strict=True):
        yield row, dict(zip(names, fields))  # noqa: B905 - as long as `lists`, and this is hot


def _one(value: bytes | None) -> Decoded:
    try:
        return decode(value or b"")
    except WireError as error:
        return error


def _values(column: Column, whole: Bools) -> list[Any]:
    """A column's values in the whole rows, as the one-by-one reader gives them."""
    if isinstance(column, Items):
        return _lists(column, whole)
    rows = np.flatnonzero(whole)
    return _leaves(column.take(rows))


def _leaves(column: Single) -> list[Any]:
    if isinstance(column, Numbers):
        return _numbers(column)
    # Few of the names in a chunk differ: each is made once.
    codes, names = column if isinstance(column, Coded) else column.coded()
    return [names[code] for code in codes.tolist()]


def _lists(column: Items, whole: Bools) -> list[list[Any]]:
    if not len(column.row):
        # One list for all: nobody changes an event's lists.
        return [[]] * int(whole.sum())
    lists: list[list[Any]] = [[] for _ in range(len(whole))]
    kept = np.flatnonzero(whole[column.row])
    fields = {name: _leaves(field.take(kept)) for name, field in column.fields.items()}
    items = fields["value"] if column.is_plain else _records(fields)
    for row, item in zip(column.row[kept].tolist(), items, strict=True):
        lists[row].append(item)
    return [lists[row] for row in np.flatnonzero(whole).tolist()]


def _numbers(column: Numbers) -> list[Any]:
    values: list[Any] = column.value.tolist()
    if column.is_boolean:
        values = [bool(value) for value in values]
    if column.known.all():
        return values
    if not column.known.any():
        return [None] * len(values)
    return [value if known else None
            for value, known in zip(values, column.known.tolist(), strict=True)]  # fmt: skip


def _records(fields: dict[str, list[Any]]) -> list[dict[str, Any]]:
    names = list(fields)
    return [dict(zip(names, values, strict=True)) for values in zip(*fields.values(), strict=True)]
