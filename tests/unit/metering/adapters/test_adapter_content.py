"""No text of a prompt, answer, argument or error reaches an event, whatever the payload holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.payloads import Node, Payload, changed, nodes, payloads

from sluice.errors import WireError
from sluice.metering.adapters import line_adapter
from sluice.wire.codec import encode

OWN = {"event_id": "e", "source": "gw", "source_epoch": "1", "source_seq": 1}
MARKER = "Zq9Marker"
EVENTS = payloads("event")
HASHES = ("tool_args_hash", "result_hash")

# Keys whose text adapters read as a word or a name: all that may pass, and only as such.
WORDS = frozenset({
    "id", "model", "model_group", "model_id", "object", "status", "type", "code", "service_tier",
    "finish_reason", "stop_reason", "reason", "speed", "inference_geo", "call_type",
    "custom_llm_provider", "llm_provider", "error_class", "error_code", "session_id", "trace_id",
    "error_rate_limit_category", "user_api_key_hash", "end_user", "traceId", "spanId", "span_id",
    "start_time", "end_time", "startTimeUnixNano", "endTimeUnixNano",
    "status_code", "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.system",
    "gen_ai.request.model", "gen_ai.response.model", "gen_ai.response.finish_reasons",
    "gen_ai.tool.call.id", "error.type", "server.address", "openai.response.service_tier",
    "user.id",
})  # fmt: skip
# Keys of names that people gave, which may have blanks in them.
LABELS = frozenset({
    "user_api_key_org_id", "user_api_key_team_id", "name", "mcp_server_name", "sluice.tenant_id",
    "sluice.project_id", "gen_ai.conversation.id", "gen_ai.agent.name", "gen_ai.tool.name",
    "gen_ai.tool.type",
})  # fmt: skip
# Beside them, in these objects, every text is content, a call's type and status included.
CONTENT = frozenset({
    "messages", "arguments", "result", "gen_ai.input.messages", "content",
    "gen_ai.output.messages", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result",
    "gen_ai.system_instructions", "requester_metadata", "request_tags", "model_parameters",
})  # fmt: skip


def content_of(payload: Payload) -> list[Node]:
    """All texts that are not read as a word or a name."""
    return [node for node in nodes(payload.line) if _is_content(payload.format, node)]


def _is_content(format: str, node: Node) -> bool:
    if not isinstance(node.value, str) or node.place[0] == "context":
        return False
    if node.place[-1] in {"key", "intValue"}:
        return False
    inside = CONTENT.intersection(node.names) or (format == "litellm" and "response" in node.names)
    return bool(inside) or node.name not in WORDS | LABELS


def bytes_of(event: dict[str, Any]) -> bytes:
    """The event as it goes to Kafka."""
    return encode("UsageEvent", event | OWN)


@pytest.mark.parametrize("payload", EVENTS, ids=lambda p: p.name)
def test_content_does_not_reach_the_event(payload: Payload) -> None:
    """A marker in every text of a payload leaves the event as it was, but for content hashes."""
    places = [node.place for node in content_of(payload)]
    planted = changed(payload.line, places, lambda text: f"{MARKER} {text} {MARKER}")
    event = line_adapter(payload.format)(planted)
    assert MARKER.encode() not in bytes_of(event)
    expected = payload.expected("event")
    for name in HASHES:
        assert (name in event) == (name in expected)
        event.pop(name, None), expected.pop(name, None)
    assert event == expected


def test_content_is_planted_where_content_is() -> None:
    """The planting reaches messages, answers, arguments, results, metadata and error texts."""
    planted = (content_of(payload) for payload in EVENTS)
    reached = {name for found in planted for node in found for name in node.names}
    assert reached >= {
        "messages", "content", "text", "arguments", "result", "instructions", "metadata",
        "error_message", "traceback", "message", "query", "thinking", "input", "delta",
        "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.call.arguments",
        "gen_ai.system_instructions", "requester_metadata", "request_tags", "user_api_key_alias",
        "user_api_key_user_email", "api_base",
    }  # fmt: skip


@pytest.mark.parametrize("payload", EVENTS, ids=lambda p: p.name)
def test_hashes_follow_content(payload: Payload) -> None:
    """Other arguments or results have another hash, so that loops can be told from progress."""
    places = [node.place for node in content_of(payload)]
    planted = changed(payload.line, places, lambda text: f"{text} {MARKER}")
    event, expected = line_adapter(payload.format)(planted), payload.expected("event")
    for name in HASHES:
        if name in expected and "execute-tool-json" not in payload.name:
            assert event[name] != expected[name]


sentences = st.lists(st.text("abcxyz.,\n", min_size=1, max_size=8), min_size=2, max_size=4).map(
    lambda words: f"{MARKER} " + " ".join(words)
)


@given(st.data(), st.sampled_from(EVENTS), sentences)
def test_running_text_passes_nowhere(data: st.DataObject, payload: Payload, text: str) -> None:
    """A sentence in any text but a name that people gave is dropped or refused, never passed on.

    Not even the refusal repeats it.
    """
    texts = [
        node.place
        for node in nodes(payload.line)
        if isinstance(node.value, str) and node.place[0] != "context" and node.name not in LABELS
    ]
    places = data.draw(st.lists(st.sampled_from(texts), min_size=1, unique=True))
    try:
        event = line_adapter(payload.format)(changed(payload.line, places, lambda _: text))
    except WireError as error:
        assert MARKER not in f"{error.reason} {error.detail}"
    else:
        assert MARKER.encode() not in bytes_of(event)


@pytest.mark.parametrize("payload", EVENTS, ids=lambda p: p.name)
def test_people_are_hashed(payload: Payload) -> None:
    """End users and API keys are in no event, and a salt changes what stands for them."""
    plain, salted = (line_adapter(payload.format, salt=salt)(payload.line) for salt in (b"", b"s"))
    for secret in ("jane@example.com", "sk-proj-acme-1", "sk-ant-acme", "master-key-of-acme"):
        assert secret.encode() not in bytes_of(plain) + bytes_of(salted)
    if "end_user_hash" in plain:
        assert len(plain["end_user_hash"]) == 32
        assert salted["end_user_hash"] != plain["end_user_hash"]
