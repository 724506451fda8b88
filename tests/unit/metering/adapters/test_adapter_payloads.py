"""Golden payloads of every source become exactly the events that stand beside them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.payloads import FOLDER, OUTCOMES, Payload, payloads

from sluice.errors import WireError
from sluice.metering.adapters import FORMATS, AdapterError, line_adapter
from sluice.metering.rating import cost, token_classes
from sluice.metering.validate import check_usage
from sluice.wire.codec import decode, encode
from sluice.wire.emitter_encode import RecordEncoder

NOW = 1_800_000_010_000_000
OWN = {"event_id": "e", "source": "gw", "source_epoch": "1", "source_seq": 1}

EVENTS, FAULTS = payloads("event"), payloads("fault")
OUTPUT = ("output", "reasoning", "output_audio", "output_image", "output_video")
of_events = pytest.mark.parametrize("payload", EVENTS, ids=lambda p: p.name)


def adapted(payload: Payload) -> dict[str, Any]:
    """What the payload's adapter makes of it."""
    return line_adapter(payload.format)(payload.line)


def read(event: dict[str, Any]) -> dict[str, Any]:
    """The event as the meter decodes it."""
    return decode(encode("UsageEvent", event | OWN))[1]


def test_every_payload_says_what_comes_of_it() -> None:
    """Each format has events and refusals, and no file stands without its partner."""
    plain = {p.name.removesuffix(".json") for p in FOLDER.glob("*.json")}
    lines = {name for name in plain if not name.endswith(OUTCOMES)}
    assert lines == {p.name for p in (*EVENTS, *FAULTS)}
    assert len(EVENTS) + len(FAULTS) == len(lines)
    assert {p.format for p in EVENTS} == {p.format for p in FAULTS} == set(FORMATS)


@of_events
def test_a_payload_becomes_its_event(payload: Payload) -> None:
    """The whole event is as written beside the payload: no field more, none less."""
    assert adapted(payload) == payload.expected("event")


@of_events
def test_the_event_passes_every_check(payload: Payload) -> None:
    """The emitter's encoder takes the event as it is, and the meter finds no fault in it."""
    event = adapted(payload)
    assert RecordEncoder.framed("UsageEvent").encode(event, OWN) == encode(
        "UsageEvent", event | OWN
    )
    check_usage(read(event), event["tenant_id"].encode(), NOW)


@of_events
def test_the_classes_add_up(payload: Payload) -> None:
    """Rating splits the event's tokens into classes without a rest and without doubt."""
    event = read(adapted(payload))
    counts, assumptions = token_classes(event)
    output = sum(counts.get(name, 0) for name in OUTPUT)
    assert output == event["output_tokens"]
    assert sum(counts.values()) - output == event["input_tokens"]
    assert min(counts.values()) >= 0
    assert all("left out" not in assumption for assumption in assumptions)


@pytest.mark.parametrize("payload", FAULTS, ids=lambda p: p.name)
def test_a_faulty_payload_is_refused_with_its_numbers(payload: Payload) -> None:
    """Reason and detail are as written beside it; nothing is repaired in silence."""
    with pytest.raises(AdapterError) as error:
        adapted(payload)
    assert isinstance(error.value, WireError)
    found = {"reason": error.value.reason, "detail": error.value.detail}
    assert found == payload.expected("fault")


@of_events
def test_only_a_provider_that_bills_has_a_cost(payload: Payload) -> None:
    """A cost in an event is the provider's, so it wins over any price book; others have none."""
    event = read(adapted(payload))
    if event["cost_pusd"] is None:
        assert event["cost_source"] is None
    else:
        priced = cost(None, event)
        assert priced is not None
        assert (priced.cost_pusd, priced.cost_source) == (event["cost_pusd"], "provider")
