"""The made readers give what the general reader gives, whatever the bytes are."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import usage
from tests.unit.admission.messages import budget_rule, decision, heartbeat, lease, slow

from sluice.errors import WireError
from sluice.wire import schema
from sluice.wire.codec import HEADER_BYTES, MAGIC, decode, encode
from sluice.wire.fast_reader import read_value, reader

Read = Callable[[bytes], tuple[str, dict[str, Any]]]

LONG = "\u00e9\u4e16" * 200
SAMPLES = [
    decision(), slow(), heartbeat(), lease(), budget_rule(),
    decision("degrade", reason=LONG, sequence=2**62, epoch=-(2**62), retry_after_ms=-1,
             params={"fallback_models": ["a", LONG], "verify": True, "tool_denylist": [""]}),
    budget_rule(limits=[{"key": str(n), "value": n} for n in range(70)],
                fail=[{"situation": "no_price", "action": "open"}], rolling_us=5),
    encode("UsageEvent", usage(units=[{"key": "images", "value": 2}], prefix_block_ids=[-1, 2**40],
                               end_mark=90, stream=False, step=2**31 - 1)),
    encode("Tick", {}),
]  # fmt: skip


def outcome(read: Read, value: bytes) -> Any:
    """Name and record, or the reason of the error."""
    try:
        return read(value)
    except WireError as error:
        return error.reason


@pytest.mark.parametrize("value", SAMPLES)
def test_regular_records_are_read_by_made_code(value: bytes) -> None:
    """Every sample is read without the general reader, to the same record, types included."""
    name, record = decode(value)
    assert repr(reader(name)(value)) == repr(record)
    assert read_value(value) == (name, record)


@pytest.mark.parametrize("name", ["Decision", "LeaseGrant", "BudgetRule", "Heartbeat", "Tick"])
def test_every_byte_cut_off_is_noticed(name: str) -> None:
    """A record that ends early, or late, is what the general reader says it is."""
    (value, *_) = (v for v in SAMPLES if decode(v)[0] == name)
    for end in range(len(value)):
        assert outcome(read_value, value[:end]) == outcome(decode, value[:end])
    assert outcome(read_value, value + b"x") == outcome(decode, value + b"x") == "trailing_bytes"


@given(st.sampled_from(SAMPLES), st.data())
def test_any_damage_gives_the_same(value: bytes, data: st.DataObject) -> None:
    """Bytes changed, put in or taken out behind the header: same record, or same reason."""
    damaged = bytearray(value)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(HEADER_BYTES, max(HEADER_BYTES, len(damaged) - 1)))
        new = data.draw(st.binary(max_size=12))
        damaged[place : place + data.draw(st.integers(0, 3))] = new
    assert outcome(read_value, bytes(damaged)) == outcome(decode, bytes(damaged))


@given(st.sampled_from(sorted(schema.names())), st.binary(max_size=60))
def test_any_bytes_under_a_known_header_give_the_same(name: str, body: bytes) -> None:
    """Random bodies of every record are read, or refused, alike."""
    value = MAGIC + schema.fingerprint(name) + body
    assert outcome(read_value, value) == outcome(decode, value)


def test_older_versions_are_resolved_by_the_general_reader() -> None:
    """A record written under a released schema that has grown since is read all the same."""
    old = next(v for v in schema.history("LeaseGrant") if "source_epoch" not in str(v["fields"]))
    assert read_value(MAGIC + schema.fingerprint_of(old) + _body(old))[1]["source_epoch"] == ""


def _body(writer: Any) -> bytes:
    record = decode(lease())[1]
    buffer = io.BytesIO()
    schemaless_writer(buffer, parse_schema(writer), record)
    return buffer.getvalue()
