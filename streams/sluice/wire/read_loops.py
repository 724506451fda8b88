"""Compiled loops that read Avro datums: one row after the other, never beyond its bytes.

A field is given as four numbers: its kind, whether it may be null, its place among the columns of
its kind, and its place among those that say which numbers are known, or -1. A step that finds
anything but the canonical form ends at `_NOWHERE`, which is behind the end of every datum.
"""

from __future__ import annotations

import numpy as np

from sluice.compiled import Bools, Bytes, Ints, compiled, inlined
from sluice.wire.memory import byte_at, last_word, number_at, signed, word_at

TEXT, LONG, INT, BOOLEAN, LIST = 0, 1, 2, 3, 4
MOST_ENTRIES = 4096  # longer lists go one by one

_NOWHERE = 2**62
_INT_END = 2**31
_ZERO, _ONE, _LAST_BITS = np.uint64(0), np.uint64(1), np.uint64(0x7F)
_HIGH_BITS = np.uint64(0x8080808080808080)
_LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_EACH_BYTE = np.uint64(0x0101010101010101)
# Pairs of 7 bits, of 14 bits and of 28 bits: the lower and the upper one.
_LOW_7, _HIGH_7 = np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00)
_LOW_14, _HIGH_14 = np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000)
_LOW_28, _HIGH_28 = np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000)
_TO_BYTES = np.uint64(56)


@compiled
def read_rows(
    data: Bytes, borders: Ints, header: Bytes, fields: Ints, entries: Ints, lists: Ints,
    numbers: Ints, known: Bools, starts: Ints, lengths: Ints, counts: Ints, places: Ints,
    whole: Bools,
) -> None:  # fmt: skip
    """Read all rows; of lists only how many entries there are, and where.

    Row n lies between borders n and n + 1, behind the last of which 16 more bytes are looked at.
    A row that is not whole is null everywhere.
    """
    base = signed(data.ctypes.data)
    entries_at, header_at = signed(entries.ctypes.data), signed(header.ctypes.data)
    for row in range(len(whole)):
        at, end = base + borders[row], base + borders[row + 1]
        at = _behind_header(at, end, header_at, len(header))
        for place in range(len(fields)):
            if at > end:
                break
            kind, slot = fields[place, 0], fields[place, 2]
            if kind == LIST:
                first, stop = lists[slot, 0], lists[slot, 1]
                at, counts[slot, row], begin = _list(at, end, entries_at, first, stop)
                places[slot, row] = begin - base
                continue
            at, first, second = _leaf(at, end, kind, fields[place, 1])
            if kind == TEXT:
                starts[slot, row] = first - base if second >= 0 else 0
                lengths[slot, row] = second
            else:
                numbers[slot, row] = first
                if fields[place, 3] >= 0:
                    known[fields[place, 3], row] = second >= 0
        whole[row] = at == end
        if at != end:
            numbers[:, row] = 0
            known[:, row] = False
            starts[:, row] = 0
            lengths[:, row] = -1
            counts[:, row] = 0


@compiled
def read_entries(
    data: Bytes, borders: Ints, counts: Ints, places: Ints, entries: Ints,
    rows: Ints, numbers: Ints, known: Bools, starts: Ints, lengths: Ints,
) -> None:  # fmt: skip
    """Read the entries of one list field of rows that were read whole."""
    base = signed(data.ctypes.data)
    entry = 0
    for row in range(len(counts)):
        at, end = base + places[row], base + borders[row + 1]
        for _ in range(counts[row]):
            rows[entry] = row
            for place in range(len(entries)):
                kind, slot = entries[place, 0], entries[place, 2]
                at, first, second = _leaf(at, end, kind, entries[place, 1])
                if kind == TEXT:
                    starts[slot, entry] = first - base if second >= 0 else 0
                    lengths[slot, entry] = second
                else:
                    numbers[slot, entry] = first
                    known[slot, entry] = second >= 0
            entry += 1


@inlined
def _behind_header(at: int, end: int, header: int, size: int) -> int:
    if end - at < size:
        return _NOWHERE
    for place in range(size):
        if byte_at(at + place) != byte_at(header + place):
            return _NOWHERE
    return at + size


@compiled
def _list(at: int, end: int, entries: int, first: int, stop: int) -> tuple[int, int, int]:
    """Where a list ends, how many entries it has, and where they begin."""
    at, count = _number(at)
    if count == 0:
        return at, 0, at
    if count < 0 or count > MOST_ENTRIES or at > end:
        return _NOWHERE, 0, 0
    begin = at
    for _ in range(count):
        for place in range(first, stop):
            field = entries + 32 * place  # a row of four numbers
            at, _first, _second = _leaf(at, end, number_at(field), number_at(field + 8))
            if at > end:
                return _NOWHERE, 0, 0
    at, more = _number(at)
    if more != 0:
        return _NOWHERE, 0, 0
    return at, count, begin


@inlined
def _leaf(at: int, end: int, kind: int, nullable: int) -> tuple[int, int, int]:
    """Where a value ends; a number and 0, or where a text begins and its length; a null's is -1.

    `at` is not behind the end; up to 11 bytes behind the end are looked at.
    """
    if nullable:
        branch = byte_at(at)
        at += 1
        if branch == 0:
            return at, 0, -1
        if branch != 2:
            return _NOWHERE, 0, -1
    if kind == BOOLEAN:
        value = signed(byte_at(at))
        return (at + 1 if value <= 1 else _NOWHERE), value, 0
    at, value = _number(at)
    if kind == TEXT:
        # Sixteen more bytes can be looked at: a word begins at every byte of a text.
        if value < 0 or value > end - at or not _is_utf8(at, value, _NOWHERE):
            return _NOWHERE, 0, -1
        return at + value, at, value
    if kind == INT and (value >= _INT_END or value < -_INT_END):
        return _NOWHERE, 0, -1
    return at, value, 0


@inlined
def _number(at: int) -> tuple[int, int]:
    """Where a zigzag number ends, and its value."""
    byte = signed(byte_at(at))
    if byte < 0x80:
        return at + 1, (byte >> 1) ^ -(byte & 1)
    word = word_at(at)
    ends = ~word & _HIGH_BITS
    if ends == _ZERO:
        return _long_number(at)
    # All bits up to the end of the byte that is the first without its high bit.
    mask = ends ^ (ends - _ONE)
    size = signed(((mask & _EACH_BYTE) * _EACH_BYTE) >> _TO_BYTES)
    value = word & mask & _LOW_BITS
    value = (value & _LOW_7) | ((value & _HIGH_7) >> np.uint64(1))
    value = (value & _LOW_14) | ((value & _HIGH_14) >> np.uint64(2))
    value = (value & _LOW_28) | ((value & _HIGH_28) >> np.uint64(4))
    return at + size, signed(value >> _ONE) ^ -signed(value & _ONE)


@compiled
def _long_number(at: int) -> tuple[int, int]:
    """A number of nine or ten bytes; longer ones, and those of more than 64 bits, are wrong."""
    value = _ZERO
    for place in range(10):
        byte = byte_at(at + place)
        value |= (np.uint64(byte) & _LAST_BITS) << np.uint64(7 * place)
        if byte < 0x80:
            if place == 9 and byte > 1:
                break
            return at + place + 1, signed(value >> _ONE) ^ -signed(value & _ONE)
    return _NOWHERE, 0


@inlined
def _is_utf8(at: int, length: int, limit: int) -> bool:
    """Whether the text at an address is what Python's strict decoder takes."""
    found = np.uint64(0)
    rest = length
    here = at
    while rest >= 8:
        found |= word_at(here)
        here += 8
        rest -= 8
    if rest:
        found |= last_word(here, rest, limit)
    if found & _HIGH_BITS == np.uint64(0):
        return True
    return _is_long_utf8(at, at + length)


@compiled
def _is_long_utf8(at: int, end: int) -> bool:
    """The table of well-formed sequences: Unicode Standard, section 3.9, table 3-7."""
    while at < end:
        first = byte_at(at)
        if first < 0x80:
            at += 1
            continue
        if first < 0xC2 or first > 0xF4:
            return False
        size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        if end - at < size:
            return False
        second = byte_at(at + 1)
        lowest = 0xA0 if first == 0xE0 else 0x90 if first == 0xF0 else 0x80
        highest = 0x9F if first == 0xED else 0x8F if first == 0xF4 else 0xBF
        if second < lowest or second > highest:
            return False
        for place in range(2, size):
            if byte_at(at + place) & 0xC0 != 0x80:
                return False
        at += size
    return True
