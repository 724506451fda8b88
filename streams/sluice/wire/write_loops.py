"""Compiled loops that write Avro datums, row after row, from columns.

A column is described by three numbers: where its first row lies among all numbers, texts or codes;
where its distinct texts lie in the pool; and how many these are. The last is negative for a column
that is not coded, -1 less where its own buffer ends in the data: the places of its texts are then
short by the number in the middle, where that buffer begins.
"""

from __future__ import annotations

import numpy as np

from sluice.compiled import Bools, Bytes, Ints, compiled, inlined
from sluice.wire.memory import byte_at, last_word, number_at, put_byte, put_word, signed, word_at
from sluice.wire.read_loops import BOOLEAN, INT, LIST, TEXT

# No number takes more bytes, with the branch of its union.
MOST_NUMBER_BYTES = 11

_WRONG = -1
_INT_END = 2**31
_SEVEN, _LAST_BITS = np.uint64(7), np.uint64(0x7F)
_MORE = np.uint64(0x80)
_SOME = np.uint8(2)  # the branch of a union that is not null

# Addresses of numbers, known, starts, lengths, codes, data, and of the pool's starts, lengths and
# bytes with their size.
Source = tuple[int, int, int, int, int, int, int, int, int, int]


@compiled
def write_rows(
    out: Bytes, header: Bytes, ends: Ints,
    fields: Ints, entries: Ints, lists: Ints, columns: Ints, entry_columns: Ints,
    numbers: Ints, known: Bools, starts: Ints, lengths: Ints, codes: Ints,
    pool: Bytes, pool_starts: Ints, pool_lengths: Ints, data: Bytes,
    entry_rows: Ints, cursors: Ints, stops: Ints, fault: Ints,
) -> int:  # fmt: skip
    """Write all rows and where each ends; give how many there are, all of them if nothing is wrong.

    Where something is, `fault` says which field, which field of its entries or -1, and the place in
    the column. The entries of list n are those between `cursors` and `stops`.
    """
    source = (
        signed(numbers.ctypes.data), signed(known.ctypes.data),
        signed(starts.ctypes.data), signed(lengths.ctypes.data), signed(codes.ctypes.data),
        signed(data.ctypes.data),
        signed(pool_starts.ctypes.data), signed(pool_lengths.ctypes.data),
        signed(pool.ctypes.data), len(pool),
    )  # fmt: skip
    begins = cursors.copy()
    base = signed(out.ctypes.data)
    at = base
    for row in range(len(ends)):
        for place in range(len(header)):
            put_byte(at + place, header[place])
        at += len(header)
        for field in range(len(fields)):
            kind, nullable, slot = fields[field, 0], fields[field, 1], fields[field, 2]
            if kind != LIST:
                column = columns[field, 0], columns[field, 1], columns[field, 2]
                at = _leaf(at, kind, nullable, column, row, source)
                if at == _WRONG:
                    fault[0], fault[1], fault[2] = field, -1, row
                    return row
                continue
            first = cursors[slot]
            stop = first
            while stop < stops[slot] and entry_rows[stop] == row:
                stop += 1
            cursors[slot] = stop
            at = _number(at, stop - first)
            for entry in range(first - begins[slot], stop - begins[slot]):
                for place in range(lists[slot, 0], lists[slot, 1]):
                    kind, nullable = entries[place, 0], entries[place, 1]
                    column = (
                        entry_columns[place, 0],
                        entry_columns[place, 1],
                        entry_columns[place, 2],
                    )
                    at = _leaf(at, kind, nullable, column, entry, source)
                    if at == _WRONG:
                        fault[0], fault[1], fault[2] = field, place, entry
                        return row
            if stop > first:
                at = _number(at, 0)
        ends[row] = at - base
    return len(ends)


@inlined
def _leaf(
    at: int, kind: int, nullable: int, column: tuple[int, int, int], row: int, source: Source
) -> int:
    """Where a value ends that was written at `at`, or that it is wrong."""
    numbers, known, starts, lengths, codes, data, pool_starts, pool_lengths, pool, pooled = source
    place = column[0] + row
    if kind != TEXT:
        if not byte_at(known + place):
            return _null(at, nullable)
        return _whole_number(at, kind, nullable, number_at(numbers + 8 * place))
    if column[2] < 0:
        start, length = number_at(starts + 8 * place), number_at(lengths + 8 * place)
        if start < 0 and length >= 0:
            return _WRONG
        return _text(at, nullable, data, -1 - column[2], start + column[1], length)
    code = number_at(codes + 8 * place)
    if code < 0 or code >= column[2]:
        return _WRONG
    place = 8 * (column[1] + code)
    start, length = number_at(pool_starts + place), number_at(pool_lengths + place)
    return _text(at, nullable, pool, pooled, start, length)


@inlined
def _null(at: int, nullable: int) -> int:
    if not nullable:
        return _WRONG
    put_byte(at, np.uint8(0))
    return at + 1


@inlined
def _whole_number(at: int, kind: int, nullable: int, value: int) -> int:
    if kind == INT and (value >= _INT_END or value < -_INT_END):
        return _WRONG
    if kind == BOOLEAN and (value < 0 or value > 1):
        return _WRONG
    if nullable:
        put_byte(at, _SOME)
        at += 1
    if kind == BOOLEAN:
        put_byte(at, np.uint8(value))
        return at + 1
    return _number(at, value)


@inlined
def _text(at: int, nullable: int, data: int, size: int, start: int, length: int) -> int:
    if length < 0:
        return _null(at, nullable)
    if start < 0 or length > size - start:
        return _WRONG
    if nullable:
        put_byte(at, _SOME)
        at += 1
    at = _number(at, length)
    source, limit, rest, to = data + start, data + size, length, at
    while rest >= 8:
        put_word(to, word_at(source))
        source += 8
        to += 8
        rest -= 8
    if rest:
        # What is written behind the text is written over, or lies in the padding.
        put_word(to, last_word(source, rest, limit))
    return at + length


@inlined
def _number(at: int, value: int) -> int:
    """Where a zigzag number ends that was written at `at`."""
    rest = np.uint64((value << 1) ^ (value >> 63))
    while rest >= _MORE:
        put_byte(at, np.uint8((rest & _LAST_BITS) | _MORE))
        at += 1
        rest >>= _SEVEN
    put_byte(at, np.uint8(rest))
    return at + 1


@compiled
def text_bytes(lengths: Ints, codes: Ints, coded: Ints, pool_lengths: Ints) -> int:
    """Bytes of all texts; a coded column is given by its first code, texts, and number of codes."""
    total = 0
    for place in range(len(lengths)):
        total += max(lengths[place], 0)
    for column in range(len(coded)):
        first, values, count, rows = coded[column]
        for place in range(first, first + rows):
            if codes[place] >= 0 and codes[place] < count:
                total += max(pool_lengths[values + codes[place]], 0)
    return total
