"""Columns laid end to end, as the compiled writer takes them, and what it says is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sluice.errors import WireError
from sluice.wire.column_types import AnyColumn, Bools, Bytes, Coded, Ints, Items, Numbers, Texts
from sluice.wire.distinct_texts import PAD_BYTES, padded
from sluice.wire.layout_table import Leaf, Listed, Table
from sluice.wire.read_loops import INT, TEXT
from sluice.wire.write_loops import MOST_NUMBER_BYTES, text_bytes, write_rows

_INT64 = np.dtype(np.int64)
_NO_BYTES: Bytes = np.zeros(0, dtype=np.uint8)
_NO_COLUMN = (0, 0, -1)  # a list has only those of its entries


class Written(NamedTuple):
    """Datums one behind the other, and where each ends."""

    data: Bytes
    ends: Ints


class _Laid(NamedTuple):
    """All columns of a sort end to end, as `write_rows` takes them."""

    numbers: Ints
    known: Bools
    starts: Ints
    lengths: Ints
    codes: Ints
    pool: Bytes
    pool_starts: Ints
    pool_lengths: Ints
    data: Bytes
    entry_rows: Ints


def written(
    name: str, table: Table, header: Bytes, columns: Mapping[str, AnyColumn], rows: int
) -> Written:
    """All rows; WireError ("unencodable") names the field that is missing or does not fit."""
    pieces = _Pieces(name, rows)
    for field, place in table.columns.items():
        pieces.add(place, columns.get(field))
    if len(columns) > len(table.columns):
        strange = next(field for field in columns if field not in table.columns)
        raise WireError("unencodable", f"{name}.{strange}: no such field")
    laid, cursors, stops = pieces.laid(), _ints(pieces.cursors), _ints(pieces.stops)
    out = np.empty(pieces.most_bytes(len(header), laid), dtype=np.uint8)
    ends, fault = np.zeros(rows, dtype=np.int64), np.zeros(3, dtype=np.int64)
    done = write_rows(
        out, header, ends, table.fields, table.entries, table.lists,
        _triples(pieces.columns), _triples(pieces.entry_columns), *laid,
        cursors, stops, fault,
    )  # fmt: skip
    if done < rows:
        raise _misfit(name, table, columns, *fault.tolist())
    for listed, cursor, stop in zip(table.listed, cursors, stops, strict=True):
        if cursor < stop:
            raise WireError("unencodable", f"{name}.{listed.name}: entries not in order of rows")
    return Written(out[: ends[-1] if rows else 0], ends)


class _Pieces:
    """What is to be laid end to end, and where each column begins then."""

    def __init__(self, name: str, rows: int) -> None:
        self._name, self._rows = name, rows
        self.columns: list[tuple[int, int, int]] = []
        self.entry_columns: list[tuple[int, int, int]] = []
        self.cursors: list[int] = []
        self.stops: list[int] = []
        self._most_values = 0
        self._numbers: list[Ints] = []
        self._known: list[Bools] = []
        self._starts: list[Ints] = []
        self._lengths: list[Ints] = []
        self._codes: list[Ints] = []
        self._entry_rows: list[Ints] = []
        self._coded: list[tuple[int, int, int, int]] = []
        self._pool: list[bytes | None] = []
        self._buffers: dict[int, tuple[Bytes, int]] = {}
        self._laid_numbers = self._laid_texts = self._laid_codes = self._laid_bytes = 0

    def add(self, place: Leaf | Listed, column: AnyColumn | None) -> None:
        """The next field of the schema."""
        if column is None:
            raise self._wrong(place.name, "missing")
        if isinstance(place, Leaf):
            self.columns.append(self._leaf(place, place.name, column, self._rows))
            return
        if not isinstance(column, Items):
            raise self._wrong(place.name, f"{type(column).__name__} for a list")
        self.columns.append(_NO_COLUMN)
        count = len(column.row)
        begin = self.stops[-1] if self.stops else 0
        self.cursors.append(begin)
        self.stops.append(begin + count)
        if not count:
            self.entry_columns += [_NO_COLUMN] * len(place.leaves)
            return
        self._entry_rows.append(column.row)
        for leaf in place.leaves:
            path = f"{place.name}[].{leaf.name}"
            field = column.fields.get(leaf.name)
            if field is None:
                raise self._wrong(path, "missing")
            self.entry_columns.append(self._leaf(leaf, path, field, count))

    def _leaf(self, leaf: Leaf, path: str, column: AnyColumn, rows: int) -> tuple[int, int, int]:
        self._most_values += rows
        if isinstance(column, Numbers) and leaf.kind != TEXT:
            size, made = len(column.value), self._number(path, column)
        elif isinstance(column, Texts) and leaf.kind == TEXT:
            size, made = len(column.length), self._text(column)
        elif isinstance(column, Coded) and leaf.kind == TEXT:
            size, made = len(column.codes), self._code(path, column)
        else:
            wanted = "text" if leaf.kind == TEXT else "a number"
            raise self._wrong(path, f"{type(column).__name__} for {wanted}")
        if size != rows:
            raise self._wrong(path, f"{size} values for {rows} rows")
        return made

    def _number(self, path: str, column: Numbers) -> tuple[int, int, int]:
        kind = column.value.dtype
        if kind is not _INT64 and not np.can_cast(kind, _INT64):
            raise self._wrong(path, f"{kind} is not of at most 64 bits with a sign")
        self._numbers.append(column.value)
        self._known.append(column.known)
        self._laid_numbers += len(column.value)
        return self._laid_numbers - len(column.value), 0, -1

    def _text(self, column: Texts) -> tuple[int, int, int]:
        key = id(column.buffer)
        if key not in self._buffers:
            self._buffers[key] = column.buffer, self._laid_bytes
            self._laid_bytes += len(column.buffer)
        self._starts.append(column.start)
        self._lengths.append(column.length)
        self._laid_texts += len(column.length)
        begin = self._buffers[key][1]
        return self._laid_texts - len(column.length), begin, -1 - begin - len(column.buffer)

    def _code(self, path: str, column: Coded) -> tuple[int, int, int]:
        begin, pooled, count = self._laid_codes, len(self._pool), len(column.values)
        try:
            self._pool += [None if value is None else value.encode() for value in column.values]
        except UnicodeEncodeError as error:
            raise self._wrong(path, f"{error.object!r} is not Unicode text") from error
        self._codes.append(column.codes)
        self._laid_codes += len(column.codes)
        self._coded.append((begin, pooled, count, len(column.codes)))
        return begin, pooled, count

    def laid(self) -> _Laid:
        """All pieces of a sort end to end."""
        lengths = [-1 if value is None else len(value) for value in self._pool]
        pool_lengths = np.array(lengths, dtype=np.int64)
        pool_starts = np.cumsum(np.maximum(pool_lengths, 0)) - np.maximum(pool_lengths, 0)
        joined = b"".join([value for value in self._pool if value])
        pool = padded(np.frombuffer(joined, dtype=np.uint8))
        buffers = [buffer for buffer, _ in self._buffers.values()]
        data = padded(buffers[0] if len(buffers) == 1 else np.concatenate([_NO_BYTES, *buffers]))
        return _Laid(
            _joined(self._numbers), np.concatenate([np.zeros(0, np.bool_), *self._known]),
            _joined(self._starts), _joined(self._lengths), _joined(self._codes),
            pool, pool_starts, pool_lengths, data,
            _joined(self._entry_rows),
        )  # fmt: skip

    def most_bytes(self, header: int, laid: _Laid) -> int:
        """Bytes that are surely enough."""
        coded = np.array(self._coded, dtype=np.int64).reshape(len(self._coded), 4)
        texts = text_bytes(laid.lengths, laid.codes, coded, laid.pool_lengths)
        lists = self._rows * len(self.cursors)
        numbers = (self._most_values + lists) * MOST_NUMBER_BYTES
        return int(self._rows * header + numbers + texts + PAD_BYTES)

    def _wrong(self, path: str, what: str) -> WireError:
        return WireError("unencodable", f"{self._name}.{path}: {what}")


def _joined(pieces: list[Ints]) -> Ints:
    """Whole numbers of any width end to end; TypeError for what 64 bits do not surely hold."""
    return np.concatenate([np.zeros(0, np.int64), *pieces], dtype=np.int64, casting="safe")


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _triples(columns: list[tuple[int, int, int]]) -> Ints:
    return np.array(columns, dtype=np.int64).reshape(len(columns), 3)


def _misfit(
    name: str, table: Table, columns: Mapping[str, AnyColumn], field: int, entry: int, place: int
) -> WireError:
    """The error for the value that the compiled writer stopped at."""
    path, found = list(table.columns.items())[field]
    column: Any = columns[path]
    if isinstance(found, Listed):
        found = found.leaves[entry - int(table.lists[found.slot, 0])]
        column = column.fields[found.name]
        path = f"{path}[].{found.name}"
    return WireError("unencodable", f"{name}.{path}: {_said(found, column, place)} at {place}")


def _said(leaf: Leaf, column: Any, place: int) -> str:
    if isinstance(column, Numbers):
        if not column.known[place]:
            return "null"
        value = int(column.value[place])
        wanted = "an integer of 32 bits" if leaf.kind == INT else "true or false"
        return f"{value} is not {wanted}"
    if isinstance(column, Coded):
        code = int(column.codes[place])
        return "null" if 0 <= code < len(column.values) else f"no text has the code {code}"
    return "null" if column.length[place] < 0 else "a text outside of its buffer"
