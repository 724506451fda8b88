"""Framing and codec: what is written comes back, whatever is broken is named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import fastavro
import pytest
from fastavro.utils import generate_one
from tests.builders import usage

from sluice.errors import WireError
from sluice.wire import codec, schema
from sluice.wire.codec import HEADER_BYTES, MAX_VALUE_BYTES, decode, encode

REPORT: dict[str, Any] = {
    "holder": "gw-1", "holder_slot": "1", "source_epoch": "e", "tenant_id": "acme",
    "budget_ids": ["b"], "period": "2026-11", "wants": 5, "in_flight_reserved": 2,
    "interim_spend": 1, "last_seq": 9, "closing": True, "policy_id": "", "scope": "",
    "unit": "pusd", "committed": None,
}  # fmt: skip
LEASE: dict[str, Any] = {
    "lease_id": "l", "holder": "gw", "period": "p", "granted_total": 1, "unit": "pusd",
    "refresh_after_ms": 1, "expires_at": 1,
}  # fmt: skip
DECISION: dict[str, Any] = {
    "decision_id": "d", "policy_id": "p", "rule_id": "r", "policy_version": "v",
    "scope": {"tenant_id": "acme"}, "action": "block", "params": {}, "mode": "enforce",
    "reason_code": "BUDGET_EXHAUSTED", "reason": "2 of 1 USD", "epoch": 1, "sequence": 1,
    "evidence": {"window": "d", "observed": 2, "limit": 1, "unit": "pusd",
                 "offsets": [{"partition": 0, "offset": 7}]},
    "issued_at": 1, "effective_at": 1, "expires_at": 2, "on_expiry": "open", "lease": LEASE,
}  # fmt: skip


def refused(value: bytes) -> str:
    """The reason for which a value is refused."""
    with pytest.raises(WireError) as error:
        decode(value)
    return error.value.reason


def unencodable(name: str, record: Any) -> str:
    """The detail with which a record is refused."""
    with pytest.raises(WireError) as error:
        encode(name, record)
    assert error.value.reason == "unencodable"
    return error.value.detail


def frame(name: str) -> bytes:
    """The header of a record's values."""
    return codec.MAGIC + schema.fingerprint(name)


def number(value: int) -> bytes:
    """A long as Avro writes it."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, "long", value)
    return buffer.getvalue()


def test_a_record_comes_back_with_its_defaults() -> None:
    """Fields given come back as they were, absent ones with their defaults."""
    name, event = decode(encode("UsageEvent", usage(1)))
    assert name == "UsageEvent"
    assert {**event, **usage(1)} == event
    assert (event["end_mark"], event["gpu_us"], event["units"]) == (90, None, [])


def test_null_never_becomes_zero_nor_zero_null() -> None:
    """What was not measured stays so, and a measured zero stays a zero."""
    event = decode(encode("UsageEvent", usage(1, gpu_us=None, queue_us=0)))[1]
    assert (event["gpu_us"], event["queue_us"]) == (None, 0)


def test_nested_records_come_back() -> None:
    """Scope, evidence and lease keep their fields; absent ones are null."""
    decision = decode(encode("Decision", DECISION))[1]
    assert decision["lease"] == LEASE
    assert decision["evidence"] == DECISION["evidence"]
    assert (decision["scope"]["tenant_id"], decision["scope"]["model"]) == ("acme", None)


def test_any_mapping_and_tuple_can_be_written() -> None:
    """Read-only mappings and tuples are as good as dicts and lists."""
    given = MappingProxyType({**REPORT, "budget_ids": ("b",)})
    assert decode(encode("HolderReport", given))[1] == REPORT


def test_the_frame_is_avro_single_object_encoding() -> None:
    """C3 01, then the schema's CRC-64-AVRO fingerprint, then a datum that any library reads."""
    value = encode("HolderReport", REPORT)
    assert value[:HEADER_BYTES] == b"\xc3\x01" + schema.fingerprint("HolderReport")
    datum = io.BytesIO(value[HEADER_BYTES:])
    assert fastavro.schemaless_reader(datum, schema.parsed("HolderReport"), None) == REPORT


def test_every_kind_of_damage_has_its_reason() -> None:
    """Damage is told apart by a stable reason."""
    whole = encode("UsageEvent", usage(1))
    assert refused(b"") == "not_single_object"
    assert refused(whole[:9]) == "not_single_object"
    assert refused(b"{}" + whole) == "not_single_object"
    assert refused(b"\xc3\x01" + bytes(20)) == "unknown_fingerprint"
    assert refused(whole[:HEADER_BYTES]) == "truncated"
    assert refused(whole + b"\0") == "trailing_bytes"
    assert refused(whole + whole[HEADER_BYTES:]) == "trailing_bytes"
    assert refused(bytes(MAX_VALUE_BYTES + 1)) == "too_large"


def test_a_value_cut_anywhere_is_truncated() -> None:
    """Wherever a value ends too early, within a number too, it is truncated and nothing else."""
    whole = encode("UsageEvent", usage(1, task_id="t", units=[{"key": "images", "value": 300}]))
    reasons = {refused(whole[:length]) for length in range(HEADER_BYTES, len(whole))}
    assert reasons == {"truncated"}


@pytest.mark.parametrize("length", [2**31, 2**62, 2**63 - 1, -1, -(2**63)])
def test_an_absurd_text_length_is_truncated_at_once(length: int) -> None:
    """A length that the value cannot hold is refused, not allocated."""
    assert refused(frame("HolderReport") + number(length) + b"gw") == "truncated"


@pytest.mark.parametrize("count", [2**31, 2**62, 2**63 - 1, -(2**62), -(2**63)])
def test_an_absurd_list_length_ends_with_the_bytes(count: int) -> None:
    """A list may claim any length; it is refused where its bytes end."""
    before = (number(1) + b"x") * 4
    assert refused(frame("HolderReport") + before + number(count) + number(3)) == "truncated"


def test_text_that_is_not_utf8_is_malformed() -> None:
    """Broken text is refused, not replaced."""
    whole = encode("HolderReport", REPORT)
    assert refused(whole.replace(b"acme", b"ac\xffe")) == "malformed"


def test_a_union_branch_that_does_not_exist_is_malformed() -> None:
    """A nullable field has two branches."""
    whole = bytearray(encode("PriceBook", {"book_id": "b", "version": "v", "currency": "USD",
                                           "source": "s", "effective_from": None,
                                           "body": "{}", "published_at": 1}))  # fmt: skip
    assert whole[20] == 0
    whole[20] = 4
    assert refused(bytes(whole)) == "malformed"


@pytest.mark.parametrize(
    ("name", "over"),
    [
        ("Heartbeat", lambda big: {"source_partition": big}),
        ("GpuSample", lambda big: {"temp_c": big}),
        ("WindowRow", lambda big: {"latency_histogram": [bucket(big)]}),
        ("WindowRow", lambda big: {"cost_histogram": [bucket(0), bucket(big)]}),
        ("Decision", lambda big: {"evidence": evidence(big)}),
    ],
)
def test_an_int_has_32_bits(name: str, over: Callable[[int], dict[str, Any]]) -> None:
    """A number that the schema's int cannot hold is malformed, wherever it stands."""
    record = generate_one(schema.parsed(name))
    for fits in (2**31 - 1, -(2**31)):
        assert decode(lenient(name, record | over(fits)))[0] == name
    for big in (2**31, -(2**31) - 1, 2**40):
        assert refused(lenient(name, record | over(big))) == "malformed"


def bucket(index: int) -> dict[str, Any]:
    """A bucket of a histogram."""
    return {"bucket": index, "count": 1, "cost_pusd": 1}


def evidence(partition: int) -> dict[str, Any]:
    """Evidence from one place."""
    return DECISION["evidence"] | {"offsets": [{"partition": partition, "offset": 1}]}


def lenient(name: str, record: dict[str, Any]) -> bytes:
    """A frame whose ints may be as large as a long; both are written alike."""
    wide = json.loads(json.dumps(schema.schema(name)).replace('"int"', '"long"'))
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, wide, record)
    return frame(name) + buffer.getvalue()


@pytest.mark.parametrize(
    ("over", "detail"),
    [
        ({"input_tokens": "many"}, "UsageEvent.input_tokens: 'many' is not an integer of 64 bits"),
        ({"input_tokens": 1.5}, "UsageEvent.input_tokens: 1.5 is not"),
        ({"input_tokens": 1.0}, "UsageEvent.input_tokens: 1.0 is not"),
        ({"input_tokens": True}, "UsageEvent.input_tokens: True is not"),
        ({"input_tokens": None}, "UsageEvent.input_tokens: None is not"),
        ({"cost_pusd": Decimal(5)}, "UsageEvent.cost_pusd: Decimal('5') is not"),
        ({"cost_pusd": 2**63}, "UsageEvent.cost_pusd: 9223372036854775808 is not"),
        ({"attempt": 2**31}, "UsageEvent.attempt: 2147483648 is not an integer of 32 bits"),
        ({"tenant_id": None}, "UsageEvent.tenant_id: None is not a string"),
        ({"tenant_id": b"acme"}, "UsageEvent.tenant_id: b'acme' is not a string"),
        ({"tool_name": 5}, "UsageEvent.tool_name: 5 is not a string"),
        ({"tool_name": "\ud800"}, "UsageEvent.tool_name: '\\ud800' is not Unicode text"),
        ({"stream": 1}, "UsageEvent.stream: 1 is not true or false"),
        ({"risk_flags": "loop"}, "UsageEvent.risk_flags: 'loop' is not a list"),
        ({"risk_flags": ["a", 5]}, "UsageEvent.risk_flags[1]: 5 is not a string"),
        ({"units": {"images": 1}}, "UsageEvent.units: {'images': 1} is not a list"),
        ({"units": [{"key": "a"}]}, "UsageEvent.units[0].value: missing"),
        ({"units": [{"key": "a", "value": 0.5}]}, "UsageEvent.units[0].value: 0.5 is not"),
        ({"units": [5]}, "UsageEvent.units[0]: 5 is not a record"),
        ({"inputtokens": 5}, "UsageEvent.inputtokens: no such field"),
    ],
)
def test_what_does_not_fit_is_refused_by_field(over: dict[str, Any], detail: str) -> None:
    """A wrong type or an unknown field is never cut, cast or dropped, and the field is named."""
    assert unencodable("UsageEvent", usage(1, **over)).startswith(detail)


def test_missing_fields_are_named() -> None:
    """Everything that is missing and has no default is listed."""
    assert unencodable("Activate", {"kind": "policy"}).startswith("Activate.id, version: missing")
    without = {name: value for name, value in DECISION.items() if name != "scope"}
    assert unencodable("Decision", without).startswith("Decision.scope: missing")


@pytest.mark.parametrize(
    ("over", "detail"),
    [
        ({"scope": None}, "Decision.scope: None is not a record"),
        ({"scope": {"tenant": "acme"}}, "Decision.scope.tenant: no such field"),
        ({"lease": LEASE | {"unit": 5}}, "Decision.lease.unit: 5 is not a string"),
        ({"lease": {}}, "Decision.lease.expires_at, granted_total, "),
        ({"evidence": DECISION["evidence"] | {"observed": 0.1}}, "Decision.evidence.observed: 0.1"),
    ],
)
def test_what_does_not_fit_inside_is_refused_by_path(over: dict[str, Any], detail: str) -> None:
    """Nested records are held to the same rules."""
    assert unencodable("Decision", DECISION | over).startswith(detail)


@pytest.mark.parametrize("record", [None, 5, "text", []])
def test_only_records_are_written(record: Any) -> None:
    """Anything else is refused, for the empty record too."""
    assert unencodable("Tick", record).endswith("is not a record")


def test_a_value_that_no_reader_takes_is_not_written() -> None:
    """The size limit holds at both ends, to the byte."""
    fields = {"policy_id": "p", "version": "v", "published_at": 1}
    room = MAX_VALUE_BYTES - len(encode("Policy", {**fields, "body": "x" * 2**17})) + 2**17
    largest = encode("Policy", {**fields, "body": "x" * room})
    assert len(largest) == MAX_VALUE_BYTES
    assert decode(largest)[1]["body"] == "x" * room
    with pytest.raises(WireError, match="too_large"):
        encode("Policy", {**fields, "body": "x" * (room + 1)})


def test_a_field_that_was_dropped_since_is_skipped_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Skipping an old writer's field may not step over the end of the value."""
    old = {"type": "record", "name": "Tick", "namespace": "sluice.v1",
           "fields": [{"name": "note", "type": "string"}]}  # fmt: skip
    known = {schema.fingerprint_of(old): ("Tick", fastavro.parse_schema(old))}
    monkeypatch.setattr(schema, "_known", lambda: known)
    header = codec.MAGIC + schema.fingerprint_of(old)
    assert decode(header + number(2) + b"hi") == ("Tick", {})
    assert refused(header + number(3) + b"hi") == "truncated"
    assert refused(header + number(-1) + b"hi") == "truncated"
    assert refused(header + number(1) + b"hi") == "trailing_bytes"
