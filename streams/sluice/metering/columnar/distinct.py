"""The distinct values of a column by a hash table, without sorting and for few rows as well."""

from __future__ import annotations

import numpy as np

from sluice.compiled import compiled
from sluice.metering.columnar.usage import Groups, Usage
from sluice.wire.column_types import Bytes, Coded, Ints, Texts

_ONLY = np.zeros(1, dtype=np.int64)
_PRIME = 0x100000001B3


def coded_of(usage: Usage, name: str, rows: Ints) -> Coded:
    """A text field of some rows by its distinct values; there may be others among them."""
    known = usage.known_codes(name)
    if known is not None:
        return Coded(known.codes[rows], known.values)
    return coded_texts(usage.text(name), rows)


def coded_texts(texts: Texts, rows: Ints | None = None) -> Coded:
    """The distinct texts of some rows, or of all, and which of them each row has."""
    rows = np.arange(len(texts.length)) if rows is None else rows
    if len(rows) == 1:  # nothing to compare
        return Coded(_ONLY, [texts.one(int(rows[0]))])
    codes, first = _texts(texts.buffer, texts.start, texts.length, rows)
    start, length = texts.start[first].tolist(), texts.length[first].tolist()
    data = texts.buffer.data
    pairs = zip(start, length, strict=True)
    return Coded(codes, [None if n < 0 else str(data[at : at + n], "utf-8") for at, n in pairs])


def groups_of(codes: Ints, *more: Ints) -> Groups:
    """Rows that are alike: `first` row of each group, and the group `of` each row."""
    if len(codes) == 1:
        return Groups(_ONLY, _ONLY)
    of, first = _numbers(codes)
    for others in more:
        of, first = _numbers(of * (int(others.max(initial=0)) + 1) + others)
    return Groups(first, of)


@compiled
def _texts(buffer: Bytes, start: Ints, length: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """The code of each row's text, and the first row of each code; a null has length -1."""
    codes = np.empty(len(rows), dtype=np.int64)
    first = np.empty(len(rows), dtype=np.int64)
    table = np.full(_room(len(rows)), -1, dtype=np.int64)
    count = 0
    for i in range(len(rows)):
        row = rows[i]
        place = _hash_of(buffer, start[row], length[row]) & (len(table) - 1)
        while table[place] >= 0:
            other = first[table[place]]
            if length[other] == length[row] and _is_equal(
                buffer, start[other], start[row], length[row]
            ):
                break
            place = (place + 1) & (len(table) - 1)
        if table[place] < 0:
            table[place], first[count] = count, row
            count += 1
        codes[i] = table[place]
    return codes, first[:count].copy()


@compiled
def _numbers(values: Ints) -> tuple[Ints, Ints]:
    """The code of each number, and the first place of each code."""
    codes = np.empty(len(values), dtype=np.int64)
    first = np.empty(len(values), dtype=np.int64)
    table = np.full(_room(len(values)), -1, dtype=np.int64)
    count = 0
    for i in range(len(values)):
        place = _mixed(values[i]) & (len(table) - 1)
        while table[place] >= 0 and values[first[table[place]]] != values[i]:
            place = (place + 1) & (len(table) - 1)
        if table[place] < 0:
            table[place], first[count] = count, i
            count += 1
        codes[i] = table[place]
    return codes, first[:count].copy()


@compiled
def _room(rows: int) -> int:
    """Places of a table that is at most half full; a power of two."""
    places = 2
    while places < 2 * rows:
        places *= 2
    return places


@compiled
def _hash_of(buffer: Bytes, start: int, length: int) -> int:
    number = length
    for place in range(start, start + length):
        number = (number ^ int(np.int64(buffer[place]))) * _PRIME
    return _mixed(number)


@compiled
def _mixed(number: int) -> int:
    number = (number ^ (number >> 32)) * _PRIME
    return number ^ (number >> 29)


@compiled
def _is_equal(buffer: Bytes, one: int, other: int, length: int) -> bool:
    place = 0
    while place < length and buffer[one + place] == buffer[other + place]:
        place += 1
    return place >= length
