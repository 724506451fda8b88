"""Texts that are here one by one, as a column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sluice.wire.column_types import Coded


def coded_of(texts: Sequence[str]) -> Coded:
    """Texts by their distinct values."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    codes = np.array([places[text] for text in texts], dtype=np.int64)
    return Coded(codes, list(places))
