"""Records of a chunk read at once, as columns, exact to the last byte.

A row is taken only if every step was canonical and the walk ended at the very end of its datum;
such a row is what the one-by-one reader gives. All other rows are left to that reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from sluice.wire.codec import MAX_VALUE_BYTES
from sluice.wire.column_types import Columns, Items, Numbers, Texts
from sluice.wire.layout import layout

__all__ = ["Columns", "Items", "Numbers", "Texts", "is_readable", "prefix", "read", "read_usage"]

_RECORD = "UsageEvent"


@cache
def prefix(name: str = _RECORD) -> bytes:
    """First bytes of a value that `read` takes: today's version of a record."""
    return layout(name).prefix


def is_readable(value: bytes | None, name: str = _RECORD) -> bool:
    """Whether a value may be handed to `read` as a record of that name."""
    return value is not None and value.startswith(prefix(name)) and len(value) <= MAX_VALUE_BYTES


def read(name: str, values: Sequence[bytes]) -> Columns:
    """Records of readable values, 1 GiB at most, as columns named like their fields."""
    return layout(name).read(values)


def read_usage(values: Sequence[bytes]) -> Columns:
    """UsageEvents of readable values as columns named like their fields."""
    return read(_RECORD, values)
