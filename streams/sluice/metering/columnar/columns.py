"""Columns made of what is here: numbers without a null, texts one by one, ends of lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sluice.wire.column_types import Coded, Ints, Numbers

_known = np.ones(1024, dtype=np.bool_)


def whole(values: Ints) -> Numbers:
    """A column of numbers without a null."""
    global _known
    if len(values) > len(_known):
        _known = np.ones(2 * len(values), dtype=np.bool_)
    return Numbers(values, _known[: len(values)])


def coded_of(texts: Sequence[str]) -> Coded:
    """Texts by their distinct values."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    codes = np.array([places[text] for text in texts], dtype=np.int64)
    return Coded(codes, list(places))


def ends(row: Ints, rows: int) -> Ints:
    """Where the entries of each row end, from those of the first row on; `row` is ascending."""
    found: Ints = np.cumsum(np.bincount(row, minlength=rows)).astype(np.int64)
    return found
