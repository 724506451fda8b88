"""Laws of the columnar reader: what it takes is what the one-by-one reader gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import usage
from tests.laws.batches import decode_all

from sluice.errors import WireError
from sluice.wire.codec import HEADER_BYTES, decode, encode
from sluice.wire.columns import (
    Columns,
    Items,
    Numbers,
    Texts,
    is_readable,
    prefix,
    read,
    read_usage,
)
from sluice.wire.schema import columnar_schema

whole_numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300), st.sampled_from([2**56, 2**62])
)
texts = st.one_of(st.text(max_size=6), st.text("abc-0", min_size=50, max_size=70))
amounts = st.lists(
    st.fixed_dictionaries({"key": texts, "value": whole_numbers}), max_size=3
)  # fmt: skip
events = st.builds(
    usage,
    st.integers(1, 10**6),
    tenant_id=st.text(min_size=1, max_size=6),
    tool_name=st.one_of(st.none(), texts),
    trace_id=st.one_of(st.none(), texts),
    input_tokens=whole_numbers,
    latency_us=st.one_of(st.none(), whole_numbers),
    gpu_us=st.one_of(st.none(), whole_numbers),
    attempt=st.integers(-(2**31), 2**31 - 1),
    stream=st.one_of(st.none(), st.booleans()),
    units=amounts,
    cache_write_by_ttl=amounts,
    usage_by_class=st.lists(
        st.fixed_dictionaries(
            {"key": texts, "quantity": whole_numbers, "cost_pusd": whole_numbers}
        ),
        max_size=2,
    ),
    risk_flags=st.lists(texts, max_size=2),
    attributes=st.lists(st.fixed_dictionaries({"key": texts, "value": texts}), max_size=2),
    prefix_block_ids=st.lists(whole_numbers, max_size=3),
)
damages = st.tuples(
    st.sampled_from(["flip", "cut", "double", "insert", "lengthen"]),
    st.integers(0, 10**6),
    st.integers(1, 255),
)


def rows(found: Columns) -> list[dict[str, Any]]:
    """Rows as the one-by-one reader gives them."""
    return [row_of(found, row) for row in range(len(found.whole))]


def row_of(found: Columns, row: int) -> dict[str, Any]:
    """One row as the one-by-one reader gives it."""
    return {name: _value(column, row) for name, column in found.columns.items()}


def _value(column: Texts | Numbers | Items, row: int) -> Any:
    if isinstance(column, Texts):
        return column.one(row)
    if isinstance(column, Numbers):
        return int(column.value[row]) if column.known[row] else None
    items = [
        {name: _value(field, int(place)) for name, field in column.fields.items()}
        for place in np.flatnonzero(column.row == row)
    ]
    return [item["value"] for item in items] if column.is_plain else items


def assert_read_alike(found: Columns, values: list[bytes], hit: set[int]) -> None:
    """What is read equals the one-by-one reader's; only data in `hit` may be left out."""
    for index, value in enumerate(values):
        try:
            slow = decode(value)[1]
        except WireError:
            assert not found.whole[index]
            continue
        assert found.whole[index] or index in hit
        if found.whole[index]:
            assert row_of(found, index) == slow


def damaged(value: bytes, damage: tuple[str, int, int], other: bytes) -> bytes:
    """A value with one fault behind its header."""
    kind, place, byte = damage
    body = bytearray(value[HEADER_BYTES:])
    if not body:
        return value
    at = place % len(body)
    if kind == "flip":
        body[at] ^= byte
    elif kind == "cut":
        del body[at:]
    elif kind == "double":
        body += other[HEADER_BYTES:]
    elif kind == "insert":
        body.insert(at, byte)
    else:  # a longer way to write the same number, or one too long
        body[at : at + 1] = bytes([body[at] | 0x80, *[0x80] * (byte % 12), 0])
    return value[:HEADER_BYTES] + bytes(body)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, min_size=1, max_size=8))
def test_every_event_is_taken_as_it_is(made: list[dict[str, Any]]) -> None:
    """Whatever the schema allows is read, with the values of the one-by-one reader."""
    values = [encode("UsageEvent", event) for event in made]
    found = read_usage(values)
    assert found.whole.all()
    assert rows(found) == [decode(value)[1] for value in values]


@settings(max_examples=600, deadline=None)
@given(st.lists(events, min_size=2, max_size=5), st.lists(damages, min_size=1, max_size=3),
       st.data())  # fmt: skip
def test_no_corruption_is_read_as_something_else(
    made: list[dict[str, Any]], faults: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """A damaged datum is left out or read as the one-by-one reader does; neighbours are whole."""
    values = [encode("UsageEvent", event) for event in made]
    hit = set()
    for fault in faults:
        index = data.draw(st.integers(0, len(values) - 1))
        values[index] = damaged(values[index], fault, values[0])
        hit.add(index)
    found = read_usage(values)
    assert_read_alike(found, values, hit)


_BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "string": texts, "long": whole_numbers, "int": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
}  # fmt: skip


def _values(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, list):
        return st.one_of(st.none(), _BY_TYPE[kind[1]])
    if isinstance(kind, str):
        return _BY_TYPE[kind]
    return st.lists(_records(kind["items"]["fields"]), max_size=3)


def _records(fields: list[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({field["name"]: _values(field["type"]) for field in fields})


@pytest.mark.parametrize("name", ["WindowRow", "TaskRow", "SourceRow", "BudgetRow"])
@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(damages, max_size=2))
def test_rows_of_the_meter_are_read_alike(
    name: str, data: st.DataObject, faults: list[tuple[str, int, int]]
) -> None:
    """The same laws hold for rows: whole ones as they are, damaged ones never as others."""
    drawn = data.draw(st.lists(_records(columnar_schema(name)["fields"]), min_size=1, max_size=4))
    values = [encode(name, row) for row in drawn]
    for fault in faults:
        values[0] = damaged(values[0], fault, values[-1])
    found = read(name, values)
    assert found.whole[1:].all()
    assert_read_alike(found, values, {0} if faults else set())


def test_a_list_that_promises_more_than_there_is_stays_in_its_datum() -> None:
    """A cut list of thousands of entries is refused, as the last value of a chunk too."""
    value = encode("UsageEvent", usage(1, prefix_block_ids=[1] * 4000))
    cut = value[: value.index(b"\x02" * 4000)]
    assert read_usage([encode("UsageEvent", usage(2)), cut]).whole.tolist() == [True, False]


def test_lists_become_arrow_arrays() -> None:
    """Entries of lists as structs or bare values, row by row."""
    made = [usage(1, units=[{"key": "größer", "value": 3}], risk_flags=["a", ""]), usage(2)]
    found = read_usage([encode("UsageEvent", event) for event in made]).columns
    units, flags = found["units"], found["risk_flags"]
    assert isinstance(units, Items)
    assert isinstance(flags, Items)
    assert units.array(2).to_pylist() == [[{"key": "größer", "value": 3}], []]
    assert flags.array(2).to_pylist() == [["a", ""], []]
    assert units.take(np.array([1])).array(1).to_pylist() == [[]]


def test_only_todays_usage_events_are_readable() -> None:
    """Other records, other versions, garbage and oversized values go one by one."""
    value = encode("UsageEvent", usage(1))
    assert is_readable(value)
    assert value.startswith(prefix())
    tick = encode("Tick", {})
    assert not any(map(is_readable, (None, b"", b"garbage", tick, value + bytes(2**20))))


@settings(max_examples=60, deadline=None)
@given(st.lists(events, min_size=1, max_size=6), st.lists(damages, max_size=3), st.data())
def test_a_chunk_decodes_like_its_values(
    made: list[dict[str, Any]], faults: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """Decoded together, every value gives what it gives alone: the event, or the same error."""
    pool = [encode("UsageEvent", event) for event in made]
    pool += [damaged(pool[0], fault, pool[-1]) for fault in faults]
    pool += [encode("Tick", {}), b"garbage", b""]
    values = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=90))
    for value, found in zip(values, decode_all(values), strict=True):
        try:
            expected = decode(value)
        except WireError as error:
            assert isinstance(found, WireError)
            assert (found.reason, found.detail) == (error.reason, error.detail)
        else:
            assert repr(found) == repr(expected)  # True is no 1


def test_texts_become_arrow_arrays_with_their_nulls() -> None:
    """Names as an Arrow array, nulls kept, text beyond ASCII whole."""
    names = ["search", None, "größer", ""]
    made = [usage(n, tool_name=name) for n, name in enumerate(names, 1)]
    column = read_usage([encode("UsageEvent", event) for event in made]).columns["tool_name"]
    assert isinstance(column, Texts)
    assert column.array().to_pylist() == names
    assert column.take(np.array([3, 2])).array().to_pylist() == ["", "größer"]
