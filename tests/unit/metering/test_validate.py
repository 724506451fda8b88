"""Which usage events are refused, and for which reason."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, usage

from sluice.errors import WireError
from sluice.metering.validate import (
    EVENT_TYPES,
    MAX_AGE_US,
    MAX_AHEAD_US,
    MAX_ATTRIBUTES,
    MAX_BYTE_MS,
    MAX_COST_PUSD,
    MAX_COUNT,
    MAX_ID_BYTES,
    MAX_LIST_ITEMS,
    check_usage,
)
from sluice.wire.codec import decode, encode
from sluice.wire.schema import schema

CORRECTION = {"event_type": "correction", "corrects_event_id": "original"}
FIELDS = {field["name"]: field["type"] for field in schema("UsageEvent")["fields"]}
LONGS = [name for name, kind in FIELDS.items() if kind in ("long", ["null", "long"])]
TIMES = ["occurred_at", "started_at", "scheduled_at", "first_token_at"]
AMOUNTS = [name for name in LONGS if name not in (*TIMES, "source_seq")]
TEXTS = [
    name
    for name, kind in FIELDS.items()
    if kind in ("string", ["null", "string"]) and name != "event_type"
]
QUANTITIES = ["cache_write_by_ttl", "tokens_by_modality", "server_tool_requests", "units"]


def whole(**over: Any) -> dict[str, Any]:
    """A decoded event."""
    return decode(encode("UsageEvent", usage(1, **over)))[1]


def accepted(**over: Any) -> None:
    """Check an event that is to pass, under its tenant's key."""
    event = whole(**over)
    check_usage(event, event["tenant_id"].encode(), NOW)


def refused(**over: Any) -> str:
    """The reason for which an event is refused under its tenant's key."""
    with pytest.raises(WireError) as error:
        accepted(**over)
    assert error.value.detail
    return error.value.reason


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES - {"correction"}))
def test_a_plain_event_passes(event_type: str) -> None:
    """A valid event of every documented type raises nothing."""
    accepted(event_type=event_type)


def test_the_documented_event_types_are_the_known_ones() -> None:
    """The schema's documentation names exactly the accepted set."""
    doc = next(f["doc"] for f in schema("UsageEvent")["fields"] if f["name"] == "event_type")
    listed = doc.removeprefix("One of: ").split(".")[0]
    assert set(listed.split(", ")) == EVENT_TYPES


def test_other_sets_are_open() -> None:
    """An outcome or priority of a newer producer is no fault."""
    accepted(outcome="parked", priority="urgent", slo_outcome="fair", usage_source="oracle")


@pytest.mark.parametrize(
    ("reason", "over"),
    [
        ("missing_field", {"event_id": ""}),
        ("missing_field", {"source": ""}),
        ("missing_field", {"source_epoch": ""}),
        ("missing_field", CORRECTION | {"corrects_event_id": None}),
        ("unknown_event_type", {"event_type": "wish"}),
        ("unknown_event_type", {"event_type": ""}),
        ("end_mark", {"end_mark": 89}),
        ("negative_value", {"source_seq": 0}),
        ("negative_value", {"attempt": -1}),
        ("negative_value", {"step": -1}),
        ("negative_value", {"depth": -1}),
    ],
)
def test_each_broken_rule_has_its_reason(reason: str, over: dict[str, Any]) -> None:
    """A broken rule is named."""
    assert refused(**over) == reason


def test_the_key_is_the_tenant() -> None:
    """An empty tenant and a key of another tenant are refused."""
    with pytest.raises(WireError, match="missing_tenant"):
        check_usage(whole(tenant_id=""), b"", NOW)
    for key in (b"other", b"", b"acme ", b"\xff", None):
        with pytest.raises(WireError, match="key_mismatch"):
            check_usage(whole(), key, NOW)
    accepted(tenant_id="größe")


@pytest.mark.parametrize("name", AMOUNTS)
def test_only_corrections_are_negative(name: str) -> None:
    """Every amount of the schema is refused below zero; a correction's may be signed."""
    assert refused(**{name: -1}) == "negative_value"
    accepted(**CORRECTION, **{name: -1})


@pytest.mark.parametrize("name", AMOUNTS)
def test_every_amount_is_bounded(name: str) -> None:
    """No amount of the schema, up or down, can fill 64 bits by itself."""
    limit = MAX_COST_PUSD if name.endswith("_pusd") else MAX_COUNT
    limit = MAX_BYTE_MS if name == "kv_byte_ms" else limit
    for sign in (1, -1):
        accepted(**CORRECTION, **{name: sign * limit})
        assert refused(**CORRECTION, **{name: sign * (limit + 1)}) == "value_too_large"


@pytest.mark.parametrize("name", QUANTITIES)
def test_listed_amounts_are_amounts_too(name: str) -> None:
    """Amounts in lists keep the same bounds, and a list stays small."""

    def listed(value: int, *, key: str = "k", times: int = 1) -> dict[str, Any]:
        return {name: [{"key": key, "value": value}] * times}

    assert refused(**listed(-1)) == "negative_value"
    accepted(**CORRECTION, **listed(-1))
    assert refused(**CORRECTION, **listed(MAX_COUNT + 1)) == "value_too_large"
    assert refused(**CORRECTION, **listed(-MAX_COUNT - 1)) == "value_too_large"
    accepted(**listed(0, times=MAX_LIST_ITEMS))
    assert refused(**listed(0, times=MAX_LIST_ITEMS + 1)) == "too_many_items"
    assert refused(**listed(0, key="k" * (MAX_ID_BYTES + 1))) == "text_too_long"


@pytest.mark.parametrize(
    ("most", "over"),
    [
        ({"cache_read_input_tokens": 60, "cache_write_input_tokens": 40}, "input_tokens"),
        ({"cache_write_input_tokens": 9, "input_tokens": 9,
          "cache_write_by_ttl": [{"key": "300", "value": 4}, {"key": "3600", "value": 5}]},
         "cache_write_input_tokens"),
        ({"reasoning_output_tokens": 100}, "output_tokens"),
        ({"rejected_prediction_tokens": 100}, "output_tokens"),
    ],
)  # fmt: skip
def test_a_part_is_at_most_its_whole(most: dict[str, Any], over: str) -> None:
    """A part may be the whole; one token less in the whole is a fault, but not in a correction."""
    accepted(**most)
    less = most | {over: whole(**most)[over] - 1}
    assert refused(**less) == "token_subset"
    accepted(**CORRECTION, **less)


@pytest.mark.parametrize(("before", "after"), [
    ("started_at", "scheduled_at"), ("scheduled_at", "first_token_at"),
    ("first_token_at", "occurred_at"), ("started_at", "first_token_at"),
    ("scheduled_at", "occurred_at"), ("started_at", "occurred_at"),
])  # fmt: skip
def test_times_are_in_order(before: str, after: str) -> None:
    """Started, scheduled, first token, occurred: each no later than the next that is known."""
    ends = {"started_at": NOW - 10, "occurred_at": NOW + 10}
    accepted(**ends | {before: NOW, after: NOW})
    assert refused(**ends | {before: NOW + 1, after: NOW}) == "time_order"


def test_times_are_near_the_broker_time() -> None:
    """Usage is at most a day ahead and 35 days old, its admission too."""
    old, ahead = NOW - MAX_AGE_US, NOW + MAX_AHEAD_US
    accepted(started_at=old, occurred_at=old)
    accepted(started_at=NOW, occurred_at=ahead)
    assert refused(started_at=old - 1, occurred_at=old - 1) == "absurd_time"
    assert refused(started_at=old - 1) == "absurd_time"
    assert refused(occurred_at=ahead + 1) == "absurd_time"


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_is_bounded(name: str) -> None:
    """No text of the schema has more than 256 bytes; bytes count, not characters."""
    accepted(**{name: "x" * MAX_ID_BYTES})
    accepted(**{name: "ü" * (MAX_ID_BYTES // 2)})
    assert refused(**{name: "x" * (MAX_ID_BYTES + 1)}) == "text_too_long"
    assert refused(**{name: "ü" * (MAX_ID_BYTES // 2) + "x"}) == "text_too_long"
    assert refused(**{name: "\U0001f600" * (MAX_ID_BYTES // 4 + 1)}) == "text_too_long"


@pytest.mark.parametrize("name", ["risk_flags", "compliance"])
def test_labels_are_few_and_short(name: str) -> None:
    """Lists of labels are bounded in number and in length."""
    accepted(**{name: ["x" * MAX_ID_BYTES] * MAX_LIST_ITEMS})
    assert refused(**{name: ["x"] * (MAX_LIST_ITEMS + 1)}) == "too_many_items"
    assert refused(**{name: ["x", "x" * (MAX_ID_BYTES + 1)]}) == "text_too_long"


def test_attributes_are_few_and_short() -> None:
    """At most 16 attributes; key and value have at most 256 bytes each."""

    def attributes(key: str, value: str, times: int = 1) -> dict[str, Any]:
        return {"attributes": [{"key": key, "value": value}] * times}

    accepted(**attributes("k" * MAX_ID_BYTES, "v" * MAX_ID_BYTES, MAX_ATTRIBUTES))
    assert refused(**attributes("k", "v", MAX_ATTRIBUTES + 1)) == "too_many_attributes"
    assert refused(**attributes("k" * (MAX_ID_BYTES + 1), "v")) == "text_too_long"
    assert refused(**attributes("k", "ü" * (MAX_ID_BYTES // 2 + 1))) == "text_too_long"


def test_the_detail_stays_short_whatever_came() -> None:
    """The detail goes into a header: a huge key or tenant is not repeated in it."""
    event = whole(tenant_id="t" * 10**5)
    with pytest.raises(WireError) as error:
        check_usage(event, b"k" * 10**5, NOW)
    assert len(error.value.detail) < 200
