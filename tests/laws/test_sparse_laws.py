"""Entries chained per row, and texts by number, against plain dictionaries."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.window_columns import ints

from sluice.compiled import compiled
from sluice.metering.columnar import names, sparse
from sluice.metering.columnar.names import EMPTY, NONE, Names
from sluice.metering.columnar.sparse import NOTHING, Entries, Links

ROWS, WAYS = 3, 4


@compiled
def _add(heads: Links, row: int, entries: Entries, key: int, first: int, second: int) -> None:
    sparse.add(heads, row, entries, key, first, second)


@compiled
def _free(heads: Links, row: int, entries: Entries) -> None:
    sparse.free(heads, row, entries)


@compiled
def _free_ways(heads: Links, row: int, entries: Entries) -> None:
    sparse.free_ways(heads, row, entries, WAYS)


@compiled
def _asked(heads: Links, row: int, entries: Entries, key: int) -> int:
    return sparse.second_of(heads, row, entries, key)


_keys = st.integers(0, 9)
_changes = st.one_of(
    st.tuples(st.just("add"), st.integers(0, ROWS - 1), _keys, st.integers(-5, 5), _keys),
    st.tuples(st.just("free"), st.integers(0, ROWS - 1)),
)


@settings(deadline=None)  # the first one compiles
@given(st.lists(_changes, max_size=60), _keys)
def test_entries_are_those_of_dictionaries(changes: list[Any], asked: int) -> None:
    """Whatever was added and given back; entries that were given back are used first."""
    heads, chains = (np.full(n, NOTHING, dtype=np.int32) for n in (ROWS, ROWS * WAYS))
    entries, apart = sparse.made(1), sparse.made(1)
    rows: dict[int, dict[int, list[int]]] = defaultdict(dict)
    most = 0
    for kind, row, *about in changes:
        if kind == "free":
            _free(heads, row, entries)
            _free_ways(chains, row, apart)
            rows[row] = {}
            continue
        key, first, second = about
        entries, apart = sparse.with_room(entries, 1), sparse.with_room(apart, 1)
        _add(heads, row, entries, key, first, second)
        _add(chains, row * WAYS + key % WAYS, apart, key, first, second)
        have = rows[row].setdefault(key, [0, 0])
        rows[row][key] = [have[0] + first, have[1] + second]
        most = max(most, sum(map(len, rows.values())))
    expected = [(r, k, *rows[r][k]) for r in range(ROWS) for k in sorted(rows[r])]
    every = ints(*range(ROWS))
    for found in (sparse.collect(heads, every, entries),
                  sparse.collect_ways(chains, every, apart, WAYS)):  # fmt: skip
        assert [tuple(entry) for entry in np.stack(found.ordered(), axis=1).tolist()] == expected
        some = found.where(found.key > asked)
        some = some.ordered(-some.key)
        assert some.key.tolist() == [
            k for r in range(ROWS) for k in sorted(rows[r], reverse=True) if k > asked
        ]
    assert entries.counts[0] == most  # ever used
    for row in range(ROWS):
        assert _asked(heads, row, entries, asked) == rows[row].get(asked, [0, 0])[1]


_texts = st.sampled_from([None, "", *"abcdefghij"])
_asks = st.one_of(
    st.tuples(st.just("take"), st.lists(_texts, max_size=6)),
    st.tuples(st.just("keep"), st.sets(st.integers(0, 12))),
)


@given(st.lists(_asks, max_size=20))
def test_numbers_stand_for_their_texts(asks: list[Any]) -> None:
    """A text has one number until it is forgotten; ranks follow the order of texts."""
    table, known = Names(), {None: NONE, "": EMPTY}
    for kind, about in asks:
        if kind == "take":
            for text in about:
                number = table.number(text)
                assert known.setdefault(text, number) == number
        else:
            used = np.array([number in about for number in range(len(table))])
            moved = table.keep(used).tolist()
            known = {
                text: moved[number]
                for text, number in known.items()
                if text in (None, "") or number in about
            }
        assert len(table) == len(set(known.values())) == len(known)
        numbers = ints(*known.values())
        coded = table.coded(numbers)
        assert [coded.values[code] for code in coded.codes.tolist()] == list(known)
        assert table.numbers(coded).tolist() == numbers.tolist()
        ranked = sorted(known, key=lambda text: table.ranks()[known[text]])
        assert ranked == sorted(known, key=lambda text: (text is not None, text or ""))


def test_texts_are_crowded_once_most_of_them_are_not_in_use() -> None:
    """Few never are; else where rows can use half of them at most, or twice the last look's."""
    with patch.object(names, "_FEW", 4):
        table = Names()
        for text in "abcdef":
            table.number(text)
        assert table.is_crowded(100)
        assert table.is_crowded(3)
        table.keep(np.ones(len(table), dtype=np.bool_))
        assert not table.is_crowded(100)
        assert not table.is_crowded(4)
        assert table.is_crowded(3)
