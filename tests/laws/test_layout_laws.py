"""Laws of reading and writing as columns: the bytes and values of the one-by-one codec."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.test_columns_laws import assert_read_alike, damaged, damages

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


@pytest.mark.parametrize("name", COLUMNAR)
@settings(max_examples=40, deadline=None)
@given(st.data(), st.lists(damages, min_size=1, max_size=3))
def test_no_damage_is_read_as_something_else(
    name: str, data: st.DataObject, faults: list[tuple[str, int, int]]
) -> None:
    """A damaged value is left out or read as alone; the values beside it are whole."""
    kind = schema.columnar_schema(name)
    rows = data.draw(st.lists(records(kind), min_size=3, max_size=3))
    values = [encode_row(name, row) for row in rows]
    for fault in faults:
        values[1] = damaged(values[1], fault, values[2])
    found = layout(name).read(values)
    assert found.whole[0]
    assert found.whole[2]
    assert_read_alike(found, values, {1})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_read_or_refused(bodies: list[bytes]) -> None:
    """Whatever follows the header, what is taken is what the one-by-one reader gives."""
    values = [layout("HolderReport").prefix + body for body in bodies]
    found = layout("HolderReport").read(values)
    assert_read_alike(found, values, set(range(len(values))))


@pytest.mark.parametrize("cut", range(10))
def test_a_value_of_another_record_is_not_taken(cut: int) -> None:
    """A value without the whole header, or with another, is not whole."""
    value = encode_row("Tick", {})
    other = value[:cut] + bytes([value[cut] ^ 1]) + value[cut + 1 :]
    found = layout("Tick").read([value, value[:cut], other, value])
    assert found.whole.tolist() == [True, False, False, True]


_TEXT = Layout({"type": "record", "name": "One", "fields": [{"name": "text", "type": "string"}]})
_bytes = st.one_of(
    st.binary(max_size=5),
    st.binary(min_size=6, max_size=30),
    st.text(max_size=12).map(str.encode),
    st.lists(
        st.sampled_from([
            b"a", b"\xc3\xb6", b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\xe0\x9f\xbf",
            b"\xf0\x8f\xbf\xbf", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5", b"\xc3",
            b"\xe2\x82", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80", b"\x80",
        ]),
        max_size=9,
    ).map(b"".join),
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.lists(_bytes, min_size=1, max_size=4))
def test_texts_are_what_python_takes_for_utf8(texts: list[bytes]) -> None:
    """A text is taken exactly where the strict decoder takes it, surrogates and all."""
    found = _TEXT.read([bytes([2 * len(text)]) + text for text in texts])
    column = found.columns["text"]
    assert isinstance(column, Texts)
    for row, text in enumerate(texts):
        try:
            expected = text.decode()
        except UnicodeDecodeError:
            assert not found.whole[row]
            assert column.one(row) is None
        else:
            assert found.whole[row]
            assert column.one(row) == expected


def test_every_two_bytes_and_borders_of_utf8_are_decided_alike() -> None:
    """All pairs of bytes, alone and before two continuation bytes, are taken as Python does."""
    pairs = [bytes((first, second)) for first in range(256) for second in range(256)]
    cases = pairs + [pair + tail for pair in pairs for tail in (b"\x80", b"\x80\xbf")]
    found = _TEXT.read([bytes([2 * len(text)]) + text for text in cases])
    assert found.whole.tolist() == [_is_utf8(text) for text in cases]


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.none(), texts, st.sampled_from(["a", "ab", "b", ""])), max_size=40),
       st.integers(0, 700))  # fmt: skip
def test_codes_are_places_of_first_appearance(drawn: list[str | None], more: int) -> None:
    """Distinct texts stand in order of appearance; every row has the code of its own."""
    names = [*drawn, *(f"name {number}" for number in range(more)), *drawn]
    encoded = [(name or "").encode() for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    sizes = np.array([-1 if name is None else len(name.encode()) for name in names], dtype=np.int64)
    column = Texts(np.frombuffer(b"".join(encoded), np.uint8), ends - np.maximum(sizes, 0), sizes)
    found = column.coded()
    assert found.values == list(dict.fromkeys(names))
    assert [found.values[code] for code in found.codes.tolist()] == names
    assert found.array().to_pylist() == names
    assert found.take(np.arange(len(names))[::2]).array().to_pylist() == names[::2]


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
