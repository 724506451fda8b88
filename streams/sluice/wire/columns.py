"""Records of a chunk read at once, as columns, with numpy and exact to the last byte.

The datums are walked side by side: for each field of the schema one vectorised step reads that
field of all records. A row is taken only if every step was canonical (a known union branch, a
boolean of 0 or 1, a number within its width, ASCII or valid UTF-8 text) and the walk ended at the
very end of its datum; such a row is what the one-by-one reader gives. All other rows are left to
that reader, which finds the words for what is wrong. Ready-made columnar readers are not used: they
take an unknown union branch for a value and panic on a cut datum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sluice.wire import schema
from sluice.wire.codec import HEADER_BYTES, MAGIC, MAX_VALUE_BYTES
from sluice.wire.column_types import (
    Bools,
    Bytes,
    Column,
    Columns,
    Ints,
    Items,
    Numbers,
    Rows,
    Texts,
)

__all__ = ["Columns", "Items", "Numbers", "Texts", "is_readable", "prefix", "read", "read_usage"]

_ALL = slice(None)

_RECORD = "UsageEvent"
_PAD = 2048  # a walk beyond the end of its datum ends in zeros, not outside of the buffer
_INT32 = 2**31
_NONE, _ONE, _SEVEN, _ONE_MORE = (np.uint64(n) for n in (0, 1, 0x7F, 0x80))
_HIGH_BITS = np.uint64(0x8080808080808080)
_MAX_ITEMS = 4096  # longer lists go one by one


@cache
def prefix(name: str = _RECORD) -> bytes:
    """First bytes of a value that `read` takes: today's version of a record."""
    return MAGIC + schema.fingerprint(name)


def is_readable(value: bytes | None, name: str = _RECORD) -> bool:
    """Whether a value may be handed to `read` as a record of that name."""
    return value is not None and value.startswith(prefix(name)) and len(value) <= MAX_VALUE_BYTES


def read(name: str, values: Sequence[bytes]) -> Columns:
    """Records of readable values, 1 GiB at most, as columns named like their fields."""
    walk = _Walk(values)
    columns = {field["name"]: walk.field(field["type"]) for field in _fields(name)}
    return Columns(columns, walk.whole())


def read_usage(values: Sequence[bytes]) -> Columns:
    """UsageEvents of readable values as columns named like their fields."""
    return read(_RECORD, values)


@cache
def _fields(name: str) -> list[dict[str, Any]]:
    fields: list[dict[str, Any]] = schema.columnar_schema(name)["fields"]
    return fields


class _Walk:
    """All datums side by side: where each is read next, and which have gone wrong.

    A walk only goes forward, so one that left its datum never meets the end of it: numbers need no
    bounds of their own, as long as the padding holds one of every field.
    """

    def __init__(self, values: Sequence[bytes]) -> None:
        lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
        ends = np.cumsum(lengths)
        self.buffer: Bytes = np.frombuffer(b"".join(values) + bytes(_PAD), dtype=np.uint8)
        self.at: Ints = ends - lengths + HEADER_BYTES
        self.end: Ints = ends
        self.bad: Bools = np.zeros(len(values), dtype=np.bool_)
        self._words = _unaligned(self.buffer)
        # One bit per byte of the buffer: whether it is no ASCII.
        self._high = _unaligned(np.packbits(self.buffer >= 0x80, bitorder="little"))

    def whole(self) -> Bools:
        """Rows that ended where their datum ends, with nothing wrong on the way."""
        ended: Bools = self.at == self.end
        return ended & ~self.bad

    def field(self, kind: Any) -> Column:
        """The next field of every row."""
        if isinstance(kind, dict):
            return self._items(kind["items"])
        if isinstance(kind, str):
            return self._leaf(kind, _ALL)
        return self._optional(kind[1])

    def _optional(self, kind: str) -> Texts | Numbers:
        branch = self.buffer[self.at]
        self.at += 1
        known = branch == 2
        some = int(known.sum())
        if some == len(branch):
            return self._leaf(kind, _ALL)
        strange = (branch != 0) & ~known
        if strange.any():
            self.bad |= strange
        return self._spread(kind, np.flatnonzero(known) if some else None, known)

    def _spread(self, kind: str, rows: Ints | None, known: Bools) -> Texts | Numbers:
        """A field that only some rows have."""
        found = None if rows is None else self._leaf(kind, rows)
        first = np.zeros(len(known), dtype=np.int64)
        if kind != "string":
            if isinstance(found, Numbers):
                first[rows] = found.value
            return Numbers(first, known, kind == "boolean")
        length = np.full(len(known), -1, dtype=np.int64)
        if isinstance(found, Texts):
            first[rows], length[rows] = found.start, found.length
        return Texts(self.buffer, first, length)

    def _leaf(self, kind: str, rows: Rows) -> Texts | Numbers:
        if kind == "string":
            return self._texts(rows)
        if kind == "boolean":
            value = self.buffer[self.at[rows]].astype(np.int64)
            self.at[rows] += 1
            self._wrong(rows, value > 1)
        else:
            value = self._longs(rows)
            if kind == "int":
                self._wrong(rows, (value >= _INT32) | (value < -_INT32))
        return Numbers(value, np.ones(len(value), dtype=np.bool_), kind == "boolean")

    def _wrong(self, rows: Rows, wrong: Bools) -> None:
        if wrong.any():
            self.bad[rows] |= wrong

    def _longs(self, rows: Rows) -> Ints:
        """A zigzag number of variable length from each row."""
        at = self.at[rows]
        word = self._words[at]
        if not (word & _ONE_MORE).any():
            self.at[rows] += 1
            return _unzigzag(word & _SEVEN)
        # The first byte without its high bit is the last one of the number.
        ends = ~word & _HIGH_BITS
        size = (np.bitwise_count((ends & -ends) - _ONE) + 1).astype(np.int64) >> 3
        value = word & _SEVEN
        for place in range(1, min(int(size.max()), 8)):
            part = (word >> np.uint64(8 * place)) & _SEVEN
            value |= np.where(size > place, part, _NONE) << np.uint64(7 * place)
        long = ends == 0
        if long.any():
            self._long_ones(rows, np.flatnonzero(long), at, value, size)
        self.at[rows] = at + size
        return _unzigzag(value)

    def _long_ones(
        self, rows: Rows, which: Ints, at: Ints, value: npt.NDArray[np.uint64], size: Ints
    ) -> None:
        """Numbers of nine and ten bytes, one by one; longer ones are wrong."""
        wrong = np.zeros(len(at), dtype=np.bool_)
        for index in which:
            raw = self.buffer[at[index] : at[index] + 10].tolist()
            length = next((n for n, byte in enumerate(raw, 1) if byte < 0x80), 11)
            whole = sum((byte & 0x7F) << (7 * n) for n, byte in enumerate(raw[:length]))
            wrong[index] = length > 10 or whole >= 2**64
            value[index], size[index] = 0 if wrong[index] else whole, min(length, 10)
        self._wrong(rows, wrong)

    def _texts(self, rows: Rows) -> Texts:
        length = self._longs(rows)
        start = self.at[rows].copy()
        outside = (length < 0) | (length > self.end[rows] - start)
        if outside.any():
            self._wrong(rows, outside)
            length[outside] = 0
            start[outside] = 0
        self.at[rows] += length
        self._check_text(rows, start, length)
        return Texts(self.buffer, start, length)

    def _check_text(self, rows: Rows, start: Ints, length: Ints) -> None:
        high = self._has_high(start, length)
        if not high.any():
            return
        for index in np.flatnonzero(high):
            text = self.buffer[start[index] : start[index] + length[index]].tobytes()
            high[index] = not _is_utf8(text)
        self._wrong(rows, high)

    def _has_high(self, start: Ints, length: Ints) -> Bools:
        """Whether a text may hold a byte that is no ASCII: surely not where this is False."""
        window = self._high[start >> 3] >> (start & 7).astype(np.uint64)
        # A window has at least 57 bits; longer texts are looked at one by one.
        mask = (_ONE << np.minimum(length, 57).astype(np.uint64)) - _ONE
        found: Bools = (window & mask) != 0
        return found | (length > 57)

    def _items(self, kind: Any) -> Items:
        """A list per row; only lists written as one block are taken."""
        count = self._longs(_ALL)
        if not count.any():
            return _joined(kind, [], self.buffer)
        self.bad |= (count < 0) | (count > _MAX_ITEMS)
        count = np.where(self.bad, 0, count)
        longest = int(count.max(initial=0))
        pieces: list[tuple[Ints, dict[str, Texts | Numbers]]] = []
        for index in range(longest):
            # A row that left its datum goes no further, or it might leave the buffer.
            rows = np.flatnonzero((count > index) & (self.at <= self.end))
            pieces.append((rows, self._item(kind, rows)))
        rows = np.flatnonzero(count > 0)
        self._wrong(rows, self._longs(rows) != 0)
        return _joined(kind, pieces, self.buffer)

    def _item(self, kind: Any, rows: Ints) -> dict[str, Texts | Numbers]:
        if isinstance(kind, str):
            return {"value": self._leaf(kind, rows)}
        return {field["name"]: self._leaf(field["type"], rows) for field in kind["fields"]}


def _unaligned(data: Bytes) -> npt.NDArray[np.uint64]:
    """The 64-bit little-endian words that begin at each byte; the last 8 bytes begin none."""
    padded = np.concatenate([data, np.zeros(8, dtype=np.uint8)])
    return np.ndarray(shape=(len(data),), dtype="<u8", buffer=padded.data, strides=(1,))


def _unzigzag(value: npt.NDArray[np.uint64]) -> Ints:
    half = (value >> _ONE).view(np.int64)
    return half ^ -(value & _ONE).view(np.int64)


def _joined(
    kind: Any, pieces: list[tuple[Ints, dict[str, Texts | Numbers]]], buffer: Bytes
) -> Items:
    """Items of all rows, ordered by row and place in its list."""
    names = ["value"] if isinstance(kind, str) else [field["name"] for field in kind["fields"]]
    kinds = [kind] if isinstance(kind, str) else [field["type"] for field in kind["fields"]]
    rows = np.concatenate([rows for rows, _ in pieces]) if pieces else np.zeros(0, dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    fields: dict[str, Texts | Numbers] = {}
    for name, of in zip(names, kinds, strict=True):
        found = [piece[name] for _, piece in pieces]
        if of == "string":
            texts = [piece for piece in found if isinstance(piece, Texts)]
            start, length = _cat([t.start for t in texts]), _cat([t.length for t in texts])
            fields[name] = Texts(buffer, start, length).take(order)
        else:
            value = _cat([n.value for n in found if isinstance(n, Numbers)])[order]
            fields[name] = Numbers(value, np.ones(len(value), dtype=np.bool_))
    return Items(rows[order], fields, isinstance(kind, str))


def _cat(arrays: list[Ints]) -> Ints:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
