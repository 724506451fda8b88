"""The buckets of `histogram`, in compiled loops and in columns.

A histogram has several chains of entries, because it gets long; a bucket is in the chain of its
number's lowest bits.
"""

from __future__ import annotations

import numpy as np

from sluice.compiled import inlined
from sluice.metering.columnar.columns import whole
from sluice.metering.columnar.sparse import Found
from sluice.metering.histogram import BORDERS, ZERO_BUCKET
from sluice.wire.column_types import Items, Single

_BORDERS = np.array(BORDERS, dtype=np.int64)


@inlined
def bucket_of(value: int) -> int:
    """The histogram bucket of a whole number from 0 on."""
    if value == 0:
        return ZERO_BUCKET
    low, high = 0, len(_BORDERS)
    while low < high:
        middle = (low + high) // 2
        if _BORDERS[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def way_of(slot: int, bucket: int, ways: int) -> int:
    """The chain that a bucket of a row is in, of `ways` (a power of two) that each row has."""
    return slot * ways + (bucket & (ways - 1))


def histogram(found: Found) -> Items:
    """Buckets in ascending order; what was taken out again is not there."""
    return buckets(found.where((found.first != 0) | (found.second != 0)).ordered())


def buckets(found: Found) -> Items:
    """Buckets as they are."""
    fields: dict[str, Single] = {
        "bucket": whole(found.key), "count": whole(found.first), "cost_pusd": whole(found.second),
    }  # fmt: skip
    return Items(found.row, fields, is_plain=False)
