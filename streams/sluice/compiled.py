"""Loops over columns that run as machine code.

A compiled function takes and gives arrays and numbers only. It is compiled at its first call, which
takes a second or so, and kept on disk beside its source, or where `NUMBA_CACHE_DIR` says; where
nothing can be kept it is compiled again in every process. Other threads run while it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The same function as machine code; whole numbers wrap around as they do in numpy."""
    try:
        made: Function = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no place for the cache: the package is read-only and there is no home
        made = numba.njit(nogil=True)(function)
    return made


def inlined(function: Function) -> Function:
    """The same function as a part of the compiled ones that call it.

    It stands in their module: what is kept on disk is made anew where that file has changed.
    """
    made: Function = numba.njit(nogil=True, forceinline=True)(function)
    return made
