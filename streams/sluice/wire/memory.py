"""Bytes, words and whole numbers at addresses, for compiled loops only.

Arrays that are handed from one compiled function to the next have their references counted, which
costs several times what is done with them; addresses do not. Who uses an address keeps its array
alive and stays inside of it: nothing here looks after that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sluice.compiled import inlined


def _loader(kind: Any, bits: int) -> Any:
    def load(_typing: Any, _address: Any) -> tuple[Any, Any]:
        def made(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            return builder.load(pointer, align=1)

        return kind(types.int64), made

    return intrinsic(load)


def _storer(kind: Any, bits: int) -> Any:
    def store(_typing: Any, _address: Any, _value: Any) -> tuple[Any, Any]:
        def made(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            builder.store(args[1], pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, kind), made

    return intrinsic(store)


# Of a word: to the type checker, compiled loops know plain whole numbers only.
signed: Any = np.int64

byte_at = _loader(types.uint8, 8)
word_at = _loader(types.uint64, 64)
number_at = _loader(types.int64, 64)
put_byte = _storer(types.uint8, 8)
put_word = _storer(types.uint64, 64)

_ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)


@inlined
def last_word(at: int, size: int, limit: int) -> Any:
    """The word of `size` bytes, 1 to 7, at an address, zeros behind them.

    Nothing is looked at from `limit` on.
    """
    if at + 8 <= limit:
        return word_at(at) & (_ALL_BITS >> np.uint64(64 - 8 * size))
    word = np.uint64(0)
    for place in range(size):
        word |= np.uint64(byte_at(at + place)) << np.uint64(8 * place)
    return word
