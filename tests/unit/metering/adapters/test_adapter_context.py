"""What gateways state beside a payload, and how the two become one event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sluice.errors import ConfigError
from sluice.metering.adapters import (
    GATEWAY_FIELDS,
    AdapterError,
    Attribution,
    content_hash,
    context_of,
    from_litellm,
    from_openai_chat,
    from_otel_span,
    hashed,
    line_adapter,
    spans_of,
)
from sluice.wire.schema import schema

STATED: dict[str, Any] = {
    "tenant_id": "acme", "project_id": "chat", "started_at": 1_000, "occurred_at": 5_000,
}  # fmt: skip
RESPONSE = {"model": "m-1", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
CONTEXT = context_of(STATED)


def test_gateway_fields_are_event_fields() -> None:
    """Every field that a gateway may state exists in the schema."""
    assert {field["name"] for field in schema("UsageEvent")["fields"]} >= GATEWAY_FIELDS


def test_a_flat_object_is_a_context() -> None:
    """Own names fill the context, the others become fields of the event."""
    context = context_of(STATED | {"task_id": "t", "end_user": "jane", "stream": True}, b"salt")
    assert (context.tenant_id, context.end_user, context.stream) == ("acme", "jane", True)
    event = from_openai_chat(RESPONSE, context)
    assert event["task_id"] == "t"
    assert event["end_user_hash"] == hashed("jane", b"salt")
    assert "jane" not in repr(context)
    assert "salt" not in repr(context)


@pytest.mark.parametrize(
    ("over", "text"),
    [
        ({"tenant_id": ""}, "missing_context: tenant_id is empty"),
        ({"project_id": None}, "missing_context: the context needs project_id"),
        ({"started_at": "1"}, "bad_context: started_at is not a whole number of µs"),
        ({"first_token_at": 1.5}, "bad_context: first_token_at is not a whole number of µs"),
        ({"end_user": 7}, "bad_context: end_user is not a text"),
        ({"input_tokens": 7}, "bad_context: a gateway does not state input_tokens"),
        ({"prompt": "x"}, "bad_context: a gateway does not state prompt"),
    ],
)
def test_a_faulty_context_is_refused(over: dict[str, Any], text: str) -> None:
    """Absent, empty, mistyped and foreign fields are named."""
    with pytest.raises(AdapterError) as error:
        context_of(STATED | over)
    assert str(error.value) == text


def test_the_gateway_names_model_and_provider() -> None:
    """The model asked for is the gateway's, else the answering one; one of them there has to be."""
    event = from_openai_chat(RESPONSE, CONTEXT)
    assert (event["request_model"], event["response_model"]) == ("m-1", "m-1")
    asked = replace(CONTEXT, request_model="m", provider_name="azure.ai.openai")
    event = from_openai_chat(RESPONSE, asked)
    assert (event["request_model"], event["response_model"]) == ("m", "m-1")
    assert event["provider_name"] == "azure.ai.openai"
    with pytest.raises(AdapterError, match="missing_field"):
        from_openai_chat({"usage": RESPONSE["usage"]}, CONTEXT)


def test_the_gateway_knows_how_a_call_ended() -> None:
    """Its outcome and error win; a call that it refused needs no usage, a cancelled one does."""
    refused = replace(CONTEXT, outcome="throttled", error_type="TOKEN_RATE", request_model="m")
    event = from_openai_chat({}, refused)
    assert (event["outcome"], event["error_type"]) == ("throttled", "TOKEN_RATE")
    assert "input_tokens" not in event
    assert event["usage_source"] == "estimated"
    with pytest.raises(AdapterError, match="missing_usage"):
        from_openai_chat({}, replace(refused, outcome="cancelled"))


def test_a_stated_field_wins_over_the_payload() -> None:
    """What both know, such as the service tier, is as the gateway says."""
    response = RESPONSE | {"service_tier": "default"}
    assert from_openai_chat(response, CONTEXT)["service_tier"] == "default"
    stated = context_of(STATED | {"service_tier": "flex"})
    assert from_openai_chat(response, stated)["service_tier"] == "flex"


def test_hashes_of_content_do_not_depend_on_its_form() -> None:
    """An object and its JSON text in any order have one hash, another content another."""
    args = {"order": "A-17", "exact": True}
    assert content_hash(args) == content_hash('{"exact": true,\n "order": "A-17"}')
    assert content_hash(args) != content_hash({"order": "A-18", "exact": True})
    assert content_hash(args) != content_hash(args, b"salt")
    assert content_hash("not json") == content_hash("not json")
    assert content_hash(None) is None


def test_owners_come_from_the_attributes_named() -> None:
    """Other attributes than the usual ones can name tenant and project, the resource's included."""
    span = {
        "startTimeUnixNano": "1000000", "endTimeUnixNano": "5000000",
        "attributes": {"gen_ai.operation.name": "embeddings", "gen_ai.system": "xai",
                       "gen_ai.request.model": "e", "gen_ai.usage.input_tokens": 3,
                       "team": "blue"},
        "resource": {"attributes": [{"key": "org", "value": {"stringValue": "acme"}}]},
    }  # fmt: skip
    event = from_otel_span(span, attribution=Attribution("org", "team"))
    assert (event["tenant_id"], event["project_id"]) == ("acme", "blue")
    assert (event["provider_name"], event["started_at"]) == ("x_ai", 1_000)
    payload = {
        "call_type": "embedding", "startTime": 0.001, "endTime": 0.005, "model": "e",
        "custom_llm_provider": "xai", "prompt_tokens": 3, "model_group": "acme",
        "metadata": {"requester": {"team": "blue"}},
    }  # fmt: skip
    event = from_litellm(payload, attribution=Attribution("model_group", "metadata.requester.team"))
    assert (event["tenant_id"], event["project_id"]) == ("acme", "blue")
    assert (event["started_at"], event["occurred_at"]) == (1_000, 5_000)


def test_an_export_request_is_taken_apart() -> None:
    """Each span of an OTLP request comes with its own resource."""
    request = {"resourceSpans": [
        {"resource": {"attributes": [{"key": "r", "value": {"intValue": "1"}}]},
         "scopeSpans": [{"spans": [{"name": "a"}, {"name": "b"}]}, {"spans": []}]},
        {"scopeSpans": [{"spans": [{"name": "c"}]}]},
    ]}  # fmt: skip
    spans = list(spans_of(request))
    assert [span["name"] for span in spans] == ["a", "b", "c"]
    assert spans[1]["resource"]["attributes"][0]["key"] == "r"
    assert spans[2]["resource"] == {}


def test_an_unknown_format_is_a_mistake_of_the_operator() -> None:
    """Formats and their options are checked before any line is read."""
    with pytest.raises(ConfigError, match="format is one of openai-chat"):
        line_adapter("cohere")
    with pytest.raises(ConfigError, match="in their context"):
        line_adapter("openai-chat", tenant_attribute="org")


@pytest.mark.parametrize("line", [{}, {"response": None}, {"context": STATED, "response": "x"}])
def test_a_line_has_context_and_response(line: dict[str, Any]) -> None:
    """A line of another shape is refused with the shape that is expected."""
    with pytest.raises(AdapterError, match="a line is"):
        line_adapter("openai-chat")(line)
