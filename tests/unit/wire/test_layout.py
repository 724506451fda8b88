"""Reading and writing records as columns: own schemas, buffers, and what is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sluice.errors import ConfigError, WireError
from sluice.wire.column_types import AnyColumn, Coded, Items, Numbers, Texts
from sluice.wire.layout import Layout, layout

RAW: dict[str, Any] = {
    "type": "record",
    "name": "State",
    "fields": [
        {"name": "name", "type": "string"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "count", "type": "int"},
        {"name": "total", "type": ["null", "long"]},
        {"name": "open", "type": "boolean"},
        {"name": "marks", "type": {"type": "array", "items": "long"}},
        {"name": "parts", "type": {"type": "array", "items": {"type": "record", "name": "Part",
            "fields": [{"name": "key", "type": "string"},
                       {"name": "value", "type": ["null", "int"]}]}}},
        {"name": "more", "type": {"type": "array", "items": "Part"}},
    ],
}  # fmt: skip
STATE = Layout(RAW, b"\x07")


def numbers(*values: int | None) -> Numbers:
    """A column of numbers; None is null."""
    known = np.array([value is not None for value in values], dtype=np.bool_)
    return Numbers(np.array([value or 0 for value in values], dtype=np.int64), known)


def coded(*values: str | None) -> Coded:
    """A column of texts by their distinct values."""
    names = list(dict.fromkeys(values))
    return Coded(np.array([names.index(value) for value in values], dtype=np.int64), names)


def places(*rows: int) -> Any:
    """Rows of entries."""
    return np.array(rows, dtype=np.int64)


def columns(**changed: AnyColumn) -> dict[str, AnyColumn]:
    """Two rows, with some columns replaced."""
    parts = Items(
        places(0, 1, 1), {"key": coded("a", "b", "ö"), "value": numbers(1, None, 3)}, False
    )
    made: dict[str, AnyColumn] = {
        "name": coded("first", "größer"), "note": coded(None, "second"), "count": numbers(1, -2),
        "total": numbers(2**63 - 1, None), "open": numbers(0, 1),
        "marks": Items(places(1, 1), {"value": numbers(-(2**63), 5)}, True), "parts": parts,
        "more": Items(places(), {}, False),
    }  # fmt: skip
    return made | changed


def refusal(**changed: AnyColumn) -> str:
    """What the error says."""
    with pytest.raises(WireError) as error:
        STATE.write(columns(**changed), 2)
    assert error.value.reason == "unencodable"
    return error.value.detail


def test_an_own_schema_is_written_and_read() -> None:
    """Rows of a caller's own schema come back, nulls and lists in their places."""
    values = STATE.write(columns(), 2)
    assert values[0] == (
        b"\x07" + b"\x0afirst" + b"\x00" + b"\x02" + b"\x02" + b"\xfe" + b"\xff" * 8 + b"\x01"
        + b"\x00" + b"\x00" + b"\x02" + b"\x02a" + b"\x02\x02" + b"\x00" + b"\x00"
    )  # fmt: skip
    found = STATE.read(values)
    assert found.whole.all()
    assert found.columns["note"].array().to_pylist() == [None, "second"]  # type: ignore[call-arg]
    parts = found.columns["parts"]
    assert isinstance(parts, Items)
    assert parts.array(2).to_pylist() == [
        [{"key": "a", "value": 1}],
        [{"key": "b", "value": None}, {"key": "ö", "value": 3}],
    ]
    assert list(found.columns) == [field["name"] for field in RAW["fields"]]


def test_a_buffer_and_its_borders_are_read_like_values() -> None:
    """Records at any place of a larger buffer are read; its end is not overrun."""
    data, ends = STATE.write_buffer(columns(), 2)
    shifted = np.concatenate([np.full(3, 0xFF, dtype=np.uint8), data])
    found = STATE.read_buffer(shifted, np.concatenate([[0], ends]) + 3)
    assert found.whole.tolist() == [True, True]
    assert STATE.write(found.columns, 2) == STATE.write(columns(), 2)


@pytest.mark.parametrize("borders", [[], [2, 1], [-1, 2], [0, 99]])
def test_borders_outside_of_a_buffer_are_refused(borders: list[int]) -> None:
    """Borders that descend or leave the buffer are an error, not a read beyond it."""
    with pytest.raises(ValueError, match=r"borders|records end"):
        STATE.read_buffer(np.zeros(9, dtype=np.uint8), np.array(borders, dtype=np.int64))


def test_texts_of_several_buffers_are_written() -> None:
    """Each text is taken from the buffer of its own column."""
    name = Texts(np.frombuffer(b"xab", np.uint8), places(1, 2), places(1, 1))
    note = Texts(
        np.frombuffer(b"a long note, and a longer one", np.uint8), places(0, 13), places(11, 16)
    )
    found = STATE.read(STATE.write(columns(name=name, note=note), 2)).columns
    assert [found["name"].one(row) for row in (0, 1)] == ["a", "b"]  # type: ignore[union-attr]
    assert [found["note"].one(row) for row in (0, 1)] == ["a long note", "and a longer one"]  # type: ignore[union-attr]


def test_values_that_do_not_fit_are_named() -> None:
    """A value out of its type's width, or null where there must be one, is named with its row."""
    assert refusal(count=numbers(1, 2**31)) == (
        "State.count: 2147483648 is not an integer of 32 bits at 1"
    )
    assert refusal(count=numbers(None, 1)) == "State.count: null at 0"
    assert refusal(open=numbers(1, 2)) == "State.open: 2 is not true or false at 1"
    assert refusal(name=coded("a", None)) == "State.name: null at 1"
    nothing = Texts(np.zeros(0, np.uint8), places(0, 0), places(0, -1))
    assert refusal(name=nothing) == "State.name: null at 1"
    beyond = Texts(np.zeros(9, np.uint8), places(0, 5), places(9, 5))
    assert refusal(name=beyond) == "State.name: a text outside of its buffer at 1"
    assert (
        refusal(name=Coded(places(0, 2), ["a", "b"])) == "State.name: no text has the code 2 at 1"
    )
    assert refusal(name=coded("a", "\ud800")) == "State.name: '\\ud800' is not Unicode text"


def test_entries_that_do_not_fit_are_named() -> None:
    """The same holds for the entries of a list, with the entry's place."""
    parts = Items(places(0, 1), {"key": coded("a", "b"), "value": numbers(1, -(2**40))}, False)
    assert refusal(parts=parts) == (
        "State.parts[].value: -1099511627776 is not an integer of 32 bits at 1"
    )
    marks = Items(places(1), {"value": numbers(None)}, True)
    assert refusal(marks=marks) == "State.marks[].value: null at 0"
    for rows in (places(1, 0), places(0, 2), places(-1, 0)):
        marks = Items(rows, {"value": numbers(1, 2)}, True)
        assert refusal(marks=marks) == "State.marks: entries not in order of rows"
    assert refusal(parts=Items(places(0), {"key": coded("a")}, False)) == (
        "State.parts[].value: missing"
    )


def test_columns_that_are_not_of_the_schema_are_named() -> None:
    """Missing, unknown, ill-typed columns and those of other lengths are refused."""
    short = columns()
    del short["total"]
    with pytest.raises(WireError, match=r"State\.total: missing"):
        STATE.write(short, 2)
    assert refusal(colour=numbers(1, 2)) == "State.colour: no such field"
    assert refusal(name=numbers(1, 2)) == "State.name: Numbers for text"
    assert refusal(count=coded("a", "b")) == "State.count: Coded for a number"
    assert refusal(marks=numbers(1, 2)) == "State.marks: Numbers for a list"
    assert refusal(count=numbers(1)) == "State.count: 1 values for 2 rows"
    floats: Any = np.array([1.5, 2.0])
    assert refusal(count=Numbers(floats, np.ones(2, np.bool_))) == (
        "State.count: float64 is not of at most 64 bits with a sign"
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("double", "State.field: columns hold no 'double' here"),
        (["long", "null"], "State.field: a union is to be null and one type, in this order"),
        (["null", "long", "string"], "State.field: a union is to be null and one type"),
        ({"type": "map", "values": "long"}, "State.field: columns hold no 'map' here"),
        ({"type": "array", "items": {"type": "array", "items": "long"}},
         "columns hold no 'array' here"),
    ],
)  # fmt: skip
def test_kinds_that_columns_cannot_hold_are_named(kind: Any, said: str) -> None:
    """A schema that is not made of single values and lists of them is refused."""
    raw = {"type": "record", "name": "State", "fields": [{"name": "field", "type": kind}]}
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        Layout(raw)


def test_a_framed_layout_is_made_once() -> None:
    """The layout of a wire record is kept."""
    assert layout("WindowRow") is layout("WindowRow")
