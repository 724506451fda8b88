"""Which texts of a column are equal, found by a compiled loop.

A text is a place in a buffer: where it begins and how many bytes it has; -1 stands for null.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from sluice.compiled import Bytes, Ints, compiled, inlined
from sluice.wire.memory import last_word, signed, word_at

# Words may be loaded up to here behind the last byte of a text.
PAD_BYTES = 16

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads bits upwards
_HALF = np.uint64(32)
_FEWEST_PLACES = 512
# Nobody outside can choose texts that collide.
_SEED = np.uint64(int.from_bytes(os.urandom(8), "little"))


def padded(data: Bytes) -> Bytes:
    """The same bytes, for reading only, and 16 of them at least."""
    if len(data) < PAD_BYTES:
        data = np.concatenate([data, np.zeros(PAD_BYTES, dtype=np.uint8)])
    if data.flags.writeable:
        data = data.view()
        data.flags.writeable = False
    return data


def code(data: Bytes, start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """For each text which distinct one it is, in order of appearance, and the first row of each."""
    # Loops are compiled anew for arrays of another kind.
    start = np.ascontiguousarray(start, dtype=np.int64)
    length = np.ascontiguousarray(length, dtype=np.int64)
    codes = np.empty(len(start), dtype=np.int64)
    firsts = np.empty(len(start), dtype=np.int64)
    count = _code(padded(data), _SEED, start, length, codes, firsts)
    return codes, firsts[:count]


@compiled
def _code(
    data: Bytes, seed: np.uint64, start: Ints, length: Ints, codes: Ints, firsts: Ints
) -> int:
    base = signed(data.ctypes.data)
    limit = base + len(data)
    table = np.full(_FEWEST_PLACES, -1, dtype=np.int32)
    hashes = np.empty(len(codes), dtype=np.int64)
    count = 0
    for row in range(len(codes)):
        at, size = base + start[row], length[row]
        mixed = _hash(at, size, limit, seed)
        place = mixed & (len(table) - 1)
        while True:
            found = table[place]
            if found < 0:
                break
            if hashes[found] == mixed:
                first = firsts[found]
                if length[first] == size and _is_same(at, base + start[first], size, limit):
                    break
            place = (place + 1) & (len(table) - 1)
        if found < 0:
            found = count
            table[place] = count
            hashes[count] = mixed
            firsts[count] = row
            count += 1
            if 2 * count > len(table):
                table = _larger(hashes, count, len(codes))
        codes[row] = found
    return count


@compiled
def _larger(hashes: Ints, count: int, rows: int) -> npt.NDArray[np.int32]:
    """A table for the same texts that is large enough even if no other two are equal."""
    size = _FEWEST_PLACES
    while size < 2 * rows:
        size *= 2
    table = np.full(size, -1, dtype=np.int32)
    for known in range(count):
        place = hashes[known] & (size - 1)
        while table[place] >= 0:
            place = (place + 1) & (size - 1)
        table[place] = known
    return table


@inlined
def _hash(at: int, length: int, limit: int, seed: np.uint64) -> int:
    mixed = (seed ^ np.uint64(length)) * _FACTOR
    rest = length
    while rest >= 8:
        mixed = (mixed ^ (mixed >> _HALF) ^ word_at(at)) * _FACTOR
        at += 8
        rest -= 8
    if rest > 0:
        mixed = (mixed ^ (mixed >> _HALF) ^ last_word(at, rest, limit)) * _FACTOR
    found: int = signed(mixed >> _HALF)
    return found


@inlined
def _is_same(here: int, there: int, length: int, limit: int) -> bool:
    rest = length
    while rest >= 8:
        if word_at(here) != word_at(there):
            return False
        here += 8
        there += 8
        rest -= 8
    return rest <= 0 or last_word(here, rest, limit) == last_word(there, rest, limit)
