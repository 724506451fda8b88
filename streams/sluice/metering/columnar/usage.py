"""Usage events side by side, and groups of those that are alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import numpy as np

from sluice.compiled import compiled, inlined
from sluice.metering.quantities import REQUEST_TYPES
from sluice.wire.column_types import Bools, Coded, Column, Columns, Ints, Items, Numbers, Texts

_MOST_GROUPS = 2**62
_ONLY = np.zeros(1, dtype=np.int64)


class Usage:
    """Columns of the UsageEvents of some rows, named like the fields of the schema.

    Rows of it are taken without being copied: a column is, once somebody asks for it.
    """

    def __init__(self, columns: Mapping[str, Column], rows: int) -> None:
        self.columns: Mapping[str, Column] = columns
        self.rows = rows
        self._root, self._chosen = self, np.zeros(0, dtype=np.int64)
        self._coded: dict[str, Coded] = {}

    def take(self, rows: Ints) -> Usage:
        """The events of some rows, in ascending order."""
        chosen = rows if self._root is self else self._chosen[rows]
        taken = Usage(_Taken(self._root.columns, chosen), len(rows))
        taken._root, taken._chosen = self._root, chosen
        return taken

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
        """A text field by its distinct values, which are looked for once.

        There may be values that no row has.
        """
        if name not in self._coded:
            self._coded[name] = self._looked_for(name)
        return self._coded[name]

    def _looked_for(self, name: str) -> Coded:
        if self._root is self:
            return self.text(name).coded()
        codes, values = self._root.coded(name)
        return Coded(codes[self._chosen], values)

    def known_codes(self, name: str) -> Coded | None:
        """The distinct values of a field where somebody asked for them before."""
        return self._coded.get(name)

    def coded_at(self, name: str, rows: Ints) -> Coded:
        """A text field of some rows by its distinct values; there may be others among them.

        Texts of other rows are not looked at, which is worth it where there are many.
        """
        known = self._coded.get(name)
        if known is not None:
            return Coded(known.codes[rows], known.values)
        if len(rows) == 1:  # nothing to compare
            return Coded(_ONLY, [self.text(name).one(int(rows[0]))])
        return self.text(name).take(rows).coded()

    def models(self) -> Coded:
        """The model that answered, else the one asked for; as `cohorts.model_of` says of one."""
        answered, asked = self.coded("response_model"), self.coded("request_model")
        unnamed = np.array([not name for name in answered.values], dtype=np.bool_)
        codes = np.where(
            unnamed[answered.codes], len(answered.values) + asked.codes, answered.codes
        )
        return Coded(codes, [*answered.values, *asked.values])

    def lists(self, *names: str) -> Bools:
        """Rows where one of these lists has entries."""
        found = np.zeros(self.rows, dtype=np.bool_)
        for name in names:
            found[self.items(name).row] = True
        return found

    def requests(self) -> Bools:
        """Rows that are inferences or embeddings."""
        return self.coded("event_type").where(*REQUEST_TYPES)


def whole_usage(columns: Columns) -> tuple[Usage, Ints]:
    """The events of the rows that were read whole, and which rows these are."""
    chosen = np.flatnonzero(columns.whole)
    if len(chosen) == len(columns.whole):
        return Usage(columns.columns, len(chosen)), chosen
    # Texts of other rows may be anything: they must not be looked at together with these.
    return Usage(_Taken(columns.columns, chosen), len(chosen)), chosen


class _Taken(Mapping[str, Column]):
    """Some rows of columns, each taken when it is asked for and then kept."""

    def __init__(self, columns: Mapping[str, Column], rows: Ints) -> None:
        self._columns = columns
        self._rows = rows
        self._taken: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._taken:
            self._taken[name] = self._columns[name].take(self._rows)
        return self._taken[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


class Groups(NamedTuple):
    """Rows that are alike: `first` row of each group, and the group `of` each row."""

    first: Ints
    of: Ints


def grouped(*keys: Ints) -> Groups:
    """Groups of rows that have the same keys, in the order of their first rows.

    Keys are not negative.
    """
    if len(keys[0]) == 1:
        return Groups(_ONLY, _ONLY)
    whole = np.zeros(len(keys[0]), dtype=np.int64)
    size = 1
    for numbers in keys:
        key, width = numbers, int(numbers.max(initial=0)) + 1
        if size * width > _MOST_GROUPS:
            whole, first = _grouped(whole)
            key, others = _grouped(key)
            size, width = len(first), len(others)
        whole = whole * width + key
        size *= width
    of, first = _grouped(whole)
    return Groups(first, of)


@compiled
def _grouped(values: Ints) -> tuple[Ints, Ints]:
    """The group of each number, and the first place of each group."""
    groups = np.empty(len(values), dtype=np.int64)
    first = np.empty(len(values), dtype=np.int64)
    places = 2
    while places < 2 * len(values):
        places *= 2
    table = np.full(places, -1, dtype=np.int64)
    count = 0
    for row in range(len(values)):
        place = _mixed(values[row]) & (places - 1)
        while table[place] >= 0 and values[first[table[place]]] != values[row]:
            place = (place + 1) & (places - 1)
        if table[place] < 0:
            table[place], first[count] = count, row
            count += 1
        groups[row] = table[place]
    return groups, first[:count].copy()


@inlined
def _mixed(number: int) -> int:
    number = (number ^ (number >> 32)) * 0x100000001B3
    return number ^ (number >> 29)
