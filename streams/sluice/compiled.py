"""Loops over columns that run as machine code.

A compiled function takes and gives arrays and numbers only. It is compiled at its first call, which
takes a second or so, and kept on disk beside its source, or where `NUMBA_CACHE_DIR` says; where
nothing can be kept it is compiled again in every process. Other threads run while it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The same function as machine code; whole numbers wrap around as they do in numpy."""
    try:
        made: Function = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no place for the cache: the package is read-only and there is no home
        made = numba.njit(nogil=True)(function)
    return made
