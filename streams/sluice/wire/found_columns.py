"""Columns of records that were read; each is made when somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np

from sluice.wire.column_types import Bools, Bytes, Column, Ints, Items, Numbers, Single, Texts
from sluice.wire.layout_table import Leaf, Listed, Table
from sluice.wire.read_loops import BOOLEAN, TEXT, read_entries


class Found(Mapping[str, Column]):
    """Columns by field name, over arrays that hold all columns of a sort one below the other."""

    def __init__(self, table: Table, data: Bytes, borders: Ints) -> None:
        rows = len(borders) - 1
        self._table, self._data, self._borders = table, data, borders
        self._numbers: Ints = np.empty((table.numbers, rows), dtype=np.int64)
        self._known: Bools = np.empty((table.optional_numbers, rows), dtype=np.bool_)
        self._starts: Ints = np.empty((table.texts, rows), dtype=np.int64)
        self._lengths: Ints = np.empty((table.texts, rows), dtype=np.int64)
        self._counts: Ints = np.empty((len(table.listed), rows), dtype=np.int64)
        self._places: Ints = np.empty((len(table.listed), rows), dtype=np.int64)
        self.whole: Bools = np.empty(rows, dtype=np.bool_)
        self._all: Bools = np.ones(rows, dtype=np.bool_)
        self._entries: list[int] = []
        self._made: dict[str, Column] = {}

    def targets(self) -> tuple[Ints, Bools, Ints, Ints, Ints, Ints, Bools]:
        """Where the compiled loop writes to."""
        return (self._numbers, self._known, self._starts, self._lengths, self._counts,
                self._places, self.whole)  # fmt: skip

    def __getitem__(self, name: str) -> Column:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._column(self._table.columns[name])
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.columns)

    def __len__(self) -> int:
        return len(self._table.columns)

    def _column(self, place: Leaf | Listed) -> Column:
        if isinstance(place, Listed):
            return self._items(place)
        _, kind, nullable, slot, known_slot = place
        if kind == TEXT:
            return Texts(self._data, self._starts[slot], self._lengths[slot])
        known = self._known[known_slot] if nullable else self._all
        return Numbers(self._numbers[slot], known, kind == BOOLEAN)

    def _items(self, listed: Listed) -> Items:
        if not self._entries:
            self._entries = self._counts.sum(axis=1).tolist()
        entries = self._entries[listed.slot]
        return self._read(listed, entries) if entries else _empty(listed)

    def _read(self, listed: Listed, entries: int) -> Items:
        counts, width = self._counts[listed.slot], len(listed.leaves)
        rows = np.empty(entries, dtype=np.int64)
        numbers, starts, lengths = (np.empty((width, entries), dtype=np.int64) for _ in range(3))
        known = np.empty((width, entries), dtype=np.bool_)
        begin, end = self._table.lists[listed.slot]
        read_entries(
            self._data, self._borders, counts, self._places[listed.slot],
            self._table.entries[begin:end], rows, numbers, known, starts, lengths,
        )  # fmt: skip
        fields: dict[str, Single] = {
            leaf.name: Texts(self._data, starts[leaf.slot], lengths[leaf.slot])
            if leaf.kind == TEXT
            else Numbers(numbers[leaf.slot], known[leaf.slot], leaf.kind == BOOLEAN)
            for leaf in listed.leaves
        }
        return Items(rows, fields, listed.is_plain)


@cache
def _empty(listed: Listed) -> Items:
    """A list field where no row has an entry."""
    none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    fields: dict[str, Single] = {
        leaf.name: Texts(nothing, none, none)
        if leaf.kind == TEXT
        else Numbers(none, np.zeros(0, dtype=np.bool_), leaf.kind == BOOLEAN)
        for leaf in listed.leaves
    }
    return Items(none, fields, listed.is_plain)
