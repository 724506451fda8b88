"""Usage events side by side, and groups of those that are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np

from sluice.metering.quantities import REQUEST_TYPES
from sluice.wire.column_types import Bools, Coded, Column, Ints, Items, Numbers, Texts

_MOST_GROUPS = 2**62


class Usage:
    """Columns of the UsageEvents of some rows, named like the fields of the schema."""

    def __init__(self, columns: Mapping[str, Column], rows: int) -> None:
        self.columns = columns
        self.rows = rows
        self._coded: dict[str, Coded] = {}

    def take(self, rows: Ints) -> Usage:
        """The events of some rows, in ascending order."""
        taken = {name: column.take(rows) for name, column in self.columns.items()}
        return Usage(taken, len(rows))

    def number(self, name: str) -> Numbers:
        """A field of numbers, instants or booleans; null has the value 0 and is not known."""
        return cast("Numbers", self.columns[name])

    def text(self, name: str) -> Texts:
        """A text field."""
        return cast("Texts", self.columns[name])

    def items(self, name: str) -> Items:
        """A list field."""
        return cast("Items", self.columns[name])

    def coded(self, name: str) -> Coded:
        """A text field by its distinct values, which are looked for once."""
        if name not in self._coded:
            self._coded[name] = self.text(name).coded()
        return self._coded[name]

    def known_codes(self, name: str) -> Coded | None:
        """The distinct values of a field where somebody asked for them before."""
        return self._coded.get(name)

    def lists(self, *names: str) -> Bools:
        """Rows where one of these lists has entries."""
        found = np.zeros(self.rows, dtype=np.bool_)
        for name in names:
            found[self.items(name).row] = True
        return found

    def requests(self) -> Bools:
        """Rows that are inferences or embeddings."""
        return self.coded("event_type").where(*REQUEST_TYPES)


class Groups(NamedTuple):
    """Rows that are alike: `first` row of each group, and the group `of` each row."""

    first: Ints
    of: Ints


def grouped(*keys: Ints) -> Groups:
    """Groups of rows that have the same keys; keys are not negative."""
    whole = np.zeros(len(keys[0]), dtype=np.int64)
    size = 1
    for key in keys:
        width = int(key.max(initial=0)) + 1
        if size * width > _MOST_GROUPS:
            whole = np.unique(whole, return_inverse=True)[1].astype(np.int64)
            size = len(whole)
        whole = whole * width + key
        size *= width
    _, first, of = np.unique(whole, return_index=True, return_inverse=True)
    return Groups(first.astype(np.int64), of.astype(np.int64))
