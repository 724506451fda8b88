"""Usage side by side: rows of it, its texts, and groups of rows that are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import usage
from tests.window_columns import usage_of

from sluice.metering.columnar.usage import grouped
from sluice.wire.column_types import Coded


def texts_of(coded: Coded) -> list[str | None]:
    """The texts of all rows."""
    return [coded.values[code] for code in coded.codes.tolist()]


def test_groups_are_of_rows_alike_in_every_key() -> None:
    """In the order of their first rows."""
    groups = grouped(np.array([7, 7, 0, 7]), np.array([1, 2, 1, 1]))
    assert (groups.of.tolist(), groups.first.tolist()) == ([0, 1, 2, 0], [0, 1, 2])


_keys = st.one_of(st.integers(0, 3), st.integers(0, 2**40), st.just(2**62))


@settings(deadline=None)  # the first one compiles
@given(st.lists(st.tuples(_keys, _keys, _keys), max_size=60))
def test_groups_are_those_of_tuples(rows: list[tuple[int, int, int]]) -> None:
    """However large the keys are, and however many."""
    keys = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    groups = grouped(*keys)
    places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
    assert groups.of.tolist() == [places[row] for row in rows]
    assert [rows[place] for place in groups.first.tolist()] == list(places)


_names = st.lists(st.sampled_from(["", "a", "aé", "a" * 9, None]), min_size=1, max_size=9)


@settings(deadline=None)
@given(_names, st.data())
def test_texts_of_some_rows_are_the_same_however_they_are_asked_for(
    names: list[str | None], data: Any
) -> None:
    """With or without the texts of all rows at hand, of rows of rows as well."""
    rows = np.array(sorted(data.draw(st.sets(st.sampled_from(range(len(names)))))), np.int64)
    made = usage_of([usage(tool_name=name) for name in names])
    expected = [names[row] for row in rows.tolist()]
    assert texts_of(made.coded_at("tool_name", rows)) == expected
    assert made.known_codes("tool_name") is None
    assert texts_of(made.coded("tool_name")) == names
    assert texts_of(made.coded_at("tool_name", rows)) == expected
    taken = made.take(rows)
    assert texts_of(taken.coded("tool_name")) == expected
    again = taken.take(np.arange(0, len(rows), 2))
    assert texts_of(again.coded("tool_name")) == expected[::2]


def test_rows_with_entries_in_a_list_are_found() -> None:
    """In one list or another."""
    units = [{"key": "images", "value": 1}]
    made = usage_of([usage(), usage(units=units), usage(risk_flags=["burst"])])
    assert made.lists("units", "tokens_by_modality").tolist() == [False, True, False]
    assert made.lists("units", "risk_flags").tolist() == [False, True, True]
    assert made.requests().tolist() == [True] * 3
