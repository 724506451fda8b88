"""Loops over columns that run as machine code.

A compiled function takes and gives arrays and numbers only. It is compiled at its first call, which
takes a second or so, and kept on disk: beside this file, else in the user's cache, or where
`NUMBA_CACHE_DIR` says. What is kept belongs to one state of the sources, because numba itself looks
only at a function's own file, not at those it calls. Other threads run while one does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

Function = TypeVar("Function", bound=Callable[..., object])


_HERE = Path(__file__).resolve().parent
_SOURCES = ("wire", "metering", "enforcement")


def _stamp() -> str:
    """Changes with every file that may hold a compiled function."""
    files = sorted(file for folder in _SOURCES for file in (_HERE / folder).glob("**/*.py"))
    files.append(Path(__file__))
    found = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return blake2b(repr(found).encode(), digest_size=8).hexdigest()


def _keep_compiled() -> None:
    """Say where machine code is kept, and drop what belongs to other states of the sources."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    own, stamp = _HERE / "__pycache__", f"compiled-{_stamp()}"
    if os.access(own if own.is_dir() else _HERE, os.W_OK):
        kept = own / stamp
        for other in [] if kept.is_dir() else own.glob("compiled-*"):
            shutil.rmtree(other, ignore_errors=True)
    else:  # other installations may keep theirs beside it
        try:
            kept = Path.home() / ".cache" / "sluice" / stamp
        except RuntimeError:
            return  # nobody's home: numba finds a place or has none
    numba.config.CACHE_DIR = str(kept)


_keep_compiled()


def compiled(function: Function) -> Function:
    """The same function as machine code; whole numbers wrap around as they do in numpy."""
    try:
        made: Function = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no place for the cache: the package is read-only and there is no home
        made = numba.njit(nogil=True)(function)
    return made


def inlined(function: Function) -> Function:
    """The same function as a part of the compiled ones that call it."""
    made: Function = numba.njit(nogil=True, forceinline=True)(function)
    return made
