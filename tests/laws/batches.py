"""The values of a chunk decoded together: usage events as columns first, all else one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sluice.errors import WireError
from sluice.wire.codec import decode
from sluice.wire.column_types import Column, Columns, Items, Numbers, Single, Texts
from sluice.wire.columns import is_readable, read_usage

# Below this the steps of the columnar reader cost more than they save.
_WORTHWHILE = 10
# Below this most strings of a chunk are made faster than their distinct ones are found.
_FEWEST_CODED = 32

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
    rows = len(columns.whole)
    lists = [_values(column, rows) for column in columns.columns.values()]
    for row, (whole, fields) in enumerate(
        zip(columns.whole.tolist(), zip(*lists, strict=True), strict=True)
    ):
        if whole:
            yield row, dict(zip(names, fields))  # noqa: B905 - as long as `lists`, and this is hot


def _one(value: bytes | None) -> Decoded:
    try:
        return decode(value or b"")
    except WireError as error:
        return error


def _values(column: Column, rows: int) -> list[Any]:
    """A column's values as the one-by-one reader gives them; rows not read whole have nulls."""
    return _lists(column, rows) if isinstance(column, Items) else _leaves(column)


def _leaves(column: Single) -> list[Any]:
    if isinstance(column, Numbers):
        return _numbers(column)
    if isinstance(column, Texts):
        if len(column.length) < _FEWEST_CODED:
            return column.strings()
        # Few of the names in a chunk differ: each is made once.
        column = column.coded()
    names = column.values
    return [names[code] for code in column.codes.tolist()]


def _lists(column: Items, rows: int) -> list[list[Any]]:
    if not len(column.row):
        # One list for all: nobody changes an event's lists.
        return [[]] * rows
    lists: list[list[Any]] = [[] for _ in range(rows)]
    fields = {name: _leaves(field) for name, field in column.fields.items()}
    items = fields["value"] if column.is_plain else _records(fields)
    for row, item in zip(column.row.tolist(), items, strict=True):
        lists[row].append(item)
    return lists


def _numbers(column: Numbers) -> list[Any]:
    values: list[Any] = column.value.tolist()
    if column.is_boolean:
        values = [bool(value) for value in values]
    known = column.known.tolist()
    if False not in known:
        return values
    if True not in known:
        return [None] * len(values)
    return [value if is_known else None
            for value, is_known in zip(values, known, strict=True)]  # fmt: skip


def _records(fields: dict[str, list[Any]]) -> list[dict[str, Any]]:
    names = list(fields)
    return [dict(zip(names, values, strict=True)) for values in zip(*fields.values(), strict=True)]
