"""A record schema as tables that compiled loops follow, to read and write many datums at once.

Fields may be strings, longs, ints, booleans, each of them also null; and lists of these or of
records of these. Whatever is not canonical or not of today's schema is left to the one-by-one
reader, which finds the words for what is wrong. Ready-made columnar readers are not used: they take
an unknown union branch for a value and panic on a cut datum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from sluice.wire import schema
from sluice.wire.codec import MAGIC
from sluice.wire.column_types import AnyColumn, Bytes, Columns, Ints
from sluice.wire.distinct_texts import PAD_BYTES, padded
from sluice.wire.found_columns import Found
from sluice.wire.layout_table import table_of
from sluice.wire.read_loops import read_rows
from sluice.wire.writing import Written, written

_PADDING = bytes(PAD_BYTES)


class Layout:
    """How the datums of one record schema lie, each behind the same `prefix`.

    ConfigError names a field of a kind that columns cannot hold.
    """

    def __init__(self, raw: schema.Schema, prefix: bytes = b"") -> None:
        self.name: str = raw["name"]
        self.prefix = prefix
        self._header: Bytes = np.frombuffer(prefix, dtype=np.uint8)
        self._table = table_of(schema.columnar(raw))

    def read(self, values: Sequence[bytes]) -> Columns:
        """Records of values, 1 GiB at most, as columns named like their fields."""
        borders = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=borders[1:])
        data = np.frombuffer(b"".join((*values, _PADDING)), dtype=np.uint8)
        return self._read(data, borders)

    def read_buffer(self, data: Bytes, borders: Ints) -> Columns:
        """Records that lie one behind the other: number n between borders n and n + 1.

        It is copied unless 16 more bytes of any content follow the last border. ValueError where
        the borders are not ascending or leave the buffer.
        """
        borders = np.array(borders, dtype=np.int64)
        if not len(borders) or borders[0] < 0 or (borders[1:] < borders[:-1]).any():
            raise ValueError("borders of records are to be ascending")
        if borders[-1] > len(data):
            raise ValueError(f"records end at {borders[-1]}, the buffer at {len(data)}")
        if borders[-1] + PAD_BYTES > len(data):
            data = np.concatenate([data, np.zeros(PAD_BYTES, dtype=np.uint8)])
        return self._read(padded(np.ascontiguousarray(data)), borders)

    def _read(self, data: Bytes, borders: Ints) -> Columns:
        found = Found(self._table, data, borders)
        read_rows(data, borders, self._header, self._table.fields, self._table.entries,
                  self._table.lists, *found.targets())  # fmt: skip
        return Columns(found, found.whole)

    def write(self, columns: Mapping[str, AnyColumn], rows: int) -> list[bytes]:
        """A value per row; the bytes are those of the one-by-one writer.

        WireError ("unencodable") names the field that is missing, null where it must not be, or
        does not fit its type.
        """
        data, ends = self.write_buffer(columns, rows)
        whole, begin, values = data.tobytes(), 0, []
        for end in ends.tolist():
            values.append(whole[begin:end])
            begin = end
        return values

    def write_buffer(self, columns: Mapping[str, AnyColumn], rows: int) -> Written:
        """The values of all rows one behind the other, and where each ends; errors as `write`."""
        return written(self.name, self._table, self._header, columns, rows)


@cache
def layout(name: str) -> Layout:
    """How values of today's version of a record lie, framed as they are on the wire."""
    return Layout(schema.schema(name), MAGIC + schema.fingerprint(name))
