"""Laws of reading and writing as columns: the bytes and values of the one-by-one codec."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.errors import ConfigError
from sluice.wire import schema
from sluice.wire.codec import encode_row
from sluice.wire.column_types import AnyColumn, Coded, Items, Texts
from sluice.wire.layout import Layout, layout


def _is_columnar(name: str) -> bool:
    try:
        layout(name)
    except ConfigError:
        return False
    return True


COLUMNAR = [name for name in schema.names() if _is_columnar(name)]
texts = st.one_of(st.text(max_size=9), st.text("abc-ö", min_size=15, max_size=70))
by_type: dict[str, st.SearchStrategy[Any]] = {
    "string": texts,
    "long": st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300)),
    "int": st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-70, 70)),
    "boolean": st.booleans(),
}


def records(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a schema without named references."""
    if isinstance(kind, list):
        return st.one_of(st.none(), records(kind[1]))
    if isinstance(kind, str):
        return by_type[kind]
    if kind["type"] == "array":
        short = st.lists(records(kind["items"]), max_size=3)
        long = st.builds(lambda item: [item] * 70, records(kind["items"]))
        return st.one_of(short, st.just([]), long)
    return st.fixed_dictionaries({f["name"]: records(f["type"]) for f in kind["fields"]})


def coded(column: Any) -> AnyColumn:
    """The same column with its texts by their distinct values."""
    if isinstance(column, Items):
        return column._replace(fields={name: coded(one) for name, one in column.fields.items()})  # type: ignore[misc]
    return column.coded() if isinstance(column, Texts) else column  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", COLUMNAR)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_read_is_written_as_it_was(name: str, data: st.DataObject) -> None:
    """Rows read as columns and written again are the bytes of the one-by-one writer."""
    kind = schema.columnar_schema(name)
    rows = data.draw(st.lists(records(kind), max_size=5))
    values = [encode_row(name, row) for row in rows]
    found = layout(name).read(values)
    assert found.whole.all()
    assert layout(name).write(found.columns, len(rows)) == values
    by_value = {field: coded(column) for field, column in found.columns.items()}
    assert layout(name).write(by_value, len(rows)) == values
    written, ends = layout(name).write_buffer(by_value, len(rows))
    again = layout(name).read_buffer(written, np.concatenate([[0], ends]))
    assert layout(name).write(again.columns, len(rows)) == values


def test_most_schemas_are_columnar() -> None:
    """What streams in bulk can be read and written as columns."""
    bulk = {"BudgetRow", "CohortRow", "HolderReport", "PartialRow", "SourceRow", "TaskRow",
            "UsageEvent", "WeightRow", "WindowRow"}  # fmt: skip
    assert bulk <= set(COLUMNAR)


def test_a_field_that_columns_cannot_hold_is_named() -> None:
    """A nested record is refused with its path."""
    inner = {"type": "record", "name": "Inner", "fields": []}
    raw = {"type": "record", "name": "Outer", "fields": [{"name": "inside", "type": inner}]}
    with pytest.raises(ConfigError, match=r"Outer\.inside: columns hold no 'record' here"):
        Layout(raw)


def test_coded_texts_keep_their_nulls() -> None:
    """Codes in order of appearance; null is a value of its own."""
    column = Texts(
        np.frombuffer(b"abab", np.uint8), np.array([2, 0, 0, 1]), np.array([2, -1, 2, 1])
    )
    found = column.coded()
    assert isinstance(found, Coded)
    assert found.codes.tolist() == [0, 1, 0, 2]
    assert found.values == ["ab", None, "b"]
