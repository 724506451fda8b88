"""Laws of the wire: nothing is lost or changed on it, and no damage does anything but fail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import WireError
from sluice.wire import schema
from sluice.wire.codec import HEADER_BYTES, MAGIC, decode, encode

DAMAGE = {"truncated", "trailing_bytes", "malformed"}
PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=12),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "boolean": st.booleans(),
}
per_record = pytest.mark.parametrize("name", schema.names())


def values(kind: Any, known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Whatever a schema allows; `known` collects the records that it names."""
    if isinstance(kind, str):
        return known[kind] if kind in known else PRIMITIVES[kind]
    if isinstance(kind, list):
        return st.one_of(*(st.none() if b == "null" else values(b, known) for b in kind))
    if kind["type"] == "array":
        return st.lists(values(kind["items"], known), max_size=3)
    made = st.fixed_dictionaries({f["name"]: values(f["type"], known) for f in kind["fields"]})
    return known.setdefault(kind["name"], made)


RECORDS = {name: values(schema.schema(name), {}) for name in schema.names()}
anything = st.sampled_from(schema.names()).flatmap(
    lambda name: st.tuples(st.just(name), RECORDS[name])
)


def outcome(value: bytes) -> tuple[str, dict[str, Any]] | str:
    """What a value decodes to, or the reason for which it is refused."""
    try:
        return decode(value)
    except WireError as error:
        assert error.detail
        return error.reason


@given(anything)
def test_every_record_comes_back_unchanged(drawn: tuple[str, dict[str, Any]]) -> None:
    """decode(encode(x)) = x, and equal records have equal bytes."""
    name, record = drawn
    value = encode(name, record)
    assert decode(value) == (name, record)
    assert encode(name, dict(reversed(record.items()))) == value


@given(anything, st.data())
def test_every_proper_prefix_is_truncated(
    drawn: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    """No value is the beginning of another: a lost tail always shows."""
    value = encode(*drawn)
    length = data.draw(st.integers(0, len(value) - 1))
    assert outcome(value[:length]) == ("not_single_object" if length < 10 else "truncated")


@given(anything, st.binary(min_size=1, max_size=30))
def test_whatever_follows_a_value_is_refused(
    drawn: tuple[str, dict[str, Any]], tail: bytes
) -> None:
    """Two datums in one value, or any rest, never pass as one."""
    value = encode(*drawn)
    assert outcome(value + tail) == "trailing_bytes"
    assert outcome(value + value) == "trailing_bytes"


@given(st.binary(max_size=400))
def test_random_bytes_decode_or_are_refused(noise: bytes) -> None:
    """Noise raises nothing but WireError."""
    outcome(noise)
    outcome(MAGIC + noise)


@per_record
@given(noise=st.binary(max_size=400))
def test_random_datums_decode_whole_or_are_refused(name: str, noise: bytes) -> None:
    """Noise behind a valid header is refused for its datum, or is a record that can be written."""
    found = outcome(MAGIC + schema.fingerprint(name) + noise)
    if isinstance(found, str):
        assert found in DAMAGE
    else:
        assert decode(encode(*found)) == found


@given(anything, st.lists(st.integers(0, 2**32), min_size=1, max_size=4))
def test_flipped_bits_decode_whole_or_are_refused(
    drawn: tuple[str, dict[str, Any]], places: list[int]
) -> None:
    """Flipped bits of a datum are refused, or give a record of the schema that can be written."""
    value = bytearray(encode(*drawn))
    bits = 8 * (len(value) - HEADER_BYTES)
    for place in places if bits else []:
        byte, bit = divmod(place % bits, 8)
        value[HEADER_BYTES + byte] ^= 1 << bit
    found = outcome(bytes(value))
    if isinstance(found, str):
        assert found in DAMAGE
    else:
        assert decode(encode(*found)) == found


@given(anything, st.integers(0, 8 * HEADER_BYTES - 1))
def test_a_flipped_header_bit_is_always_seen(drawn: tuple[str, dict[str, Any]], place: int) -> None:
    """A value is never read with another schema than the one that wrote it."""
    value = bytearray(encode(*drawn))
    value[place // 8] ^= 1 << place % 8
    assert outcome(bytes(value)) in {"not_single_object", "unknown_fingerprint"}
