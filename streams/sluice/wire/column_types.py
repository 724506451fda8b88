"""Columns as the columnar reader gives them, and how they become Arrow arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sluice.compiled import Bools, Bytes, Ints
from sluice.wire.distinct_texts import code

__all__ = [
    "AnyColumn", "Bools", "Bytes", "Coded", "Column", "Columns", "Ints", "Items", "Numbers", "Rows",
    "Single", "Texts",
]  # fmt: skip

Rows = Ints | slice  # a slice stands for all rows: no copy is made

# Below this an Arrow array costs more than it saves.
_FEWEST_BY_ARROW = 128


class Coded(NamedTuple):
    """A text column as places in the list of its distinct values, of which one may be None."""

    codes: Ints
    values: list[str | None]

    def where(self, *wanted: str | None) -> Bools:
        """Rows with one of these values."""
        found: Bools = np.array([value in wanted for value in self.values], dtype=np.bool_)
        return found[self.codes] if len(self.values) else np.zeros(0, dtype=np.bool_)

    def take(self, rows: Rows) -> Coded:
        """The texts of some rows."""
        return Coded(self.codes[rows], self.values)

    def array(self) -> pa.Array:
        """The texts as an Arrow array."""
        return pa.array(self.values, pa.string()).take(pa.array(self.codes))


class Texts(NamedTuple):
    """Strings of all rows as places in the buffer; a null has length -1."""

    buffer: Bytes
    start: Ints
    length: Ints

    def take(self, rows: Rows) -> Texts:
        """The strings of some rows."""
        return Texts(self.buffer, self.start[rows], self.length[rows])

    def array(self) -> pa.Array:
        """The strings as an Arrow array; the buffer must be smaller than 2 GiB."""
        known = self.length >= 0
        count = int(known.sum())
        if not count:
            return pa.nulls(len(known), pa.string())
        # Texts and the gaps between them, in turn: Arrow then copies the texts alone.
        borders = np.zeros(2 * len(known), dtype=np.int64)
        borders[0::2] = np.where(known, self.start, 0)
        borders[1::2] = np.where(known, self.start + self.length, 0)
        np.maximum.accumulate(borders, out=borders)
        if (borders[0::2] != self.start)[known].any():
            return self._gathered(known)
        pieces = _strings(borders, self.buffer)
        places = np.arange(0, 2 * len(known), 2)
        return pieces.take(pa.array(places, mask=None if count == len(known) else ~known))

    def coded(self) -> Coded:
        """The distinct strings and which of them each row has."""
        codes, firsts = code(self.buffer, self.start, self.length)
        return Coded(codes, self.take(firsts).strings())

    def strings(self) -> list[str | None]:
        """The strings of all rows."""
        if len(self.length) >= _FEWEST_BY_ARROW:
            found: list[str | None] = self.array().to_pylist()
            return found
        text = self.buffer.data
        return [
            None if length < 0 else str(text[start : start + length], "utf-8")
            for start, length in zip(self.start.tolist(), self.length.tolist(), strict=True)
        ]

    def one(self, row: int) -> str | None:
        """The string of one row."""
        length = int(self.length[row])
        start = int(self.start[row])
        return None if length < 0 else self.buffer[start : start + length].tobytes().decode()

    def _gathered(self, known: Bools) -> pa.Array:
        """Strings in another order than in the buffer."""
        length = np.maximum(self.length, 0)
        ends = np.zeros(len(length) + 1, dtype=np.int64)
        np.cumsum(length, out=ends[1:])
        places = np.repeat(self.start - ends[:-1], length) + np.arange(ends[-1])
        return _strings(ends, self.buffer[places], None if known.all() else _bits(known))


class Numbers(NamedTuple):
    """Whole numbers, or booleans, of all rows; a row that is not `known` is null (value 0)."""

    value: Ints
    known: Bools
    is_boolean: bool = False

    def take(self, rows: Rows) -> Numbers:
        """The numbers of some rows."""
        return Numbers(self.value[rows], self.known[rows], self.is_boolean)

    def array(self) -> pa.Array:
        """The numbers as an Arrow array."""
        mask = None if self.known.all() else _bits(self.known)
        value = pa.py_buffer(np.ascontiguousarray(self.value))
        return pa.Array.from_buffers(pa.int64(), len(self.value), [mask, value])


class Items(NamedTuple):
    """Entries of a list field: the row of each, and its fields; lists without entries have none."""

    row: Ints
    fields: Mapping[str, Single]
    is_plain: bool  # of single values, in the field "value", not of records

    def take(self, rows: Ints) -> Items:
        """The entries of some rows, which stand in ascending order."""
        if not len(self.row):
            return self
        chosen = np.flatnonzero(np.isin(self.row, rows))
        fields = {name: column.take(chosen) for name, column in self.fields.items()}
        return Items(np.searchsorted(rows, self.row[chosen]), fields, self.is_plain)

    def array(self, rows: int) -> pa.Array:
        """The lists of all rows as an Arrow array: of structs, or of bare values."""
        ends = np.zeros(rows + 1, dtype=np.int32)
        np.cumsum(np.bincount(self.row, minlength=rows), out=ends[1:])
        arrays = [column.array() for column in self.fields.values()]
        entries = (
            arrays[0] if self.is_plain else pa.StructArray.from_arrays(arrays, list(self.fields))
        )
        return pa.ListArray.from_arrays(pa.array(ends), entries)


Single = Texts | Numbers | Coded
Column = Texts | Numbers | Items
AnyColumn = Column | Coded  # of those that are written


class Columns(NamedTuple):
    """Columns by field name, and which rows hold; the others are to be read one by one."""

    columns: Mapping[str, Column]
    whole: Bools


def _strings(borders: Ints, data: Bytes, mask: pa.Buffer | None = None) -> pa.Array:
    offsets = pa.py_buffer(borders.astype(np.int32))
    return pa.StringArray.from_buffers(len(borders) - 1, offsets, pa.py_buffer(data), mask)


def _bits(known: Bools) -> pa.Buffer:
    return pa.py_buffer(np.packbits(known, bitorder="little"))
