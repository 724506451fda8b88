"""Adapters agree with each other, lose no token, and answer any payload with event or refusal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.payloads import Payload, changed, nodes, payloads

from sluice.errors import WireError
from sluice.metering.adapters import CallContext, line_adapter
from sluice.metering.adapters.anthropic_messages import from_anthropic_messages
from sluice.metering.adapters.litellm_log import from_litellm
from sluice.metering.adapters.openai_chat import from_openai_chat
from sluice.metering.adapters.openai_responses import from_openai_responses
from sluice.metering.adapters.otel_span import from_otel_span
from sluice.metering.rating import token_classes
from sluice.wire.codec import decode, encode

CONTEXT = CallContext(tenant_id="acme", project_id="chat", started_at=1, occurred_at=2)
OWN = {"event_id": "e", "source": "gw", "source_epoch": "1", "source_seq": 1}
TOKENS = ("input_tokens", "cache_read_input_tokens", "cache_write_input_tokens",
          "cache_write_by_ttl", "output_tokens", "reasoning_output_tokens",
          "rejected_prediction_tokens", "tokens_by_modality")  # fmt: skip
LISTS = ("cache_write_by_ttl", "tokens_by_modality")

counts = st.integers(0, 10**7)
truth = st.fixed_dictionaries(
    dict.fromkeys(("uncached", "read", "short", "long", "text", "reasoning"), counts)
)


def fields(event: dict[str, Any]) -> dict[str, Any]:
    """The token fields of an event."""
    return {name: event.get(name, [] if name in LISTS else 0) for name in TOKENS}


def openai(true: dict[str, int], given_name: str, made_name: str) -> dict[str, Any]:
    """Usage in OpenAI's words: the input with its cache, the output with its reasoning."""
    written = true["short"] + true["long"]
    given, made = true["uncached"] + true["read"] + written, true["text"] + true["reasoning"]
    return {
        f"{given_name}_tokens": given, f"{made_name}_tokens": made, "total_tokens": given + made,
        f"{given_name}_tokens_details": {
            "cached_tokens": true["read"], "cache_write_tokens": written,
            "cache_write_tokens_details": {
                "ttl_5m_tokens": true["short"], "ttl_1h_tokens": true["long"],
            },
        },
        f"{made_name}_tokens_details": {"reasoning_tokens": true["reasoning"]},
    }  # fmt: skip


def anthropic(true: dict[str, int]) -> dict[str, Any]:
    """Usage in Anthropic's words: the input without its cache."""
    return {
        "input_tokens": true["uncached"], "cache_read_input_tokens": true["read"],
        "cache_creation_input_tokens": true["short"] + true["long"],
        "cache_creation": {
            "ephemeral_5m_input_tokens": true["short"], "ephemeral_1h_input_tokens": true["long"],
        },
        "output_tokens": true["text"] + true["reasoning"],
        "output_tokens_details": {"thinking_tokens": true["reasoning"]},
    }  # fmt: skip


def litellm(usage: dict[str, Any]) -> dict[str, Any]:
    """LiteLLM's payload around a usage object."""
    return {
        "metadata": {"user_api_key_org_id": "acme", "user_api_key_team_id": "chat",
                     "usage_object": usage},
        "startTime": 1.0, "endTime": 2.0, "model": "m", "custom_llm_provider": "p",
        "call_type": "acompletion", "status": "success",
    }  # fmt: skip


def span(true: dict[str, int]) -> dict[str, Any]:
    """A span with the usage attributes of today."""
    usage = openai(true, "prompt", "completion")
    return {
        "start_time_unix_nano": 1000, "end_time_unix_nano": 2000,
        "attributes": {
            "sluice.tenant_id": "acme", "sluice.project_id": "chat",
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "p",
            "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": usage["prompt_tokens"],
            "gen_ai.usage.output_tokens": usage["completion_tokens"],
            "gen_ai.usage.cache_read.input_tokens": true["read"],
            "gen_ai.usage.cache_write.input_tokens": true["short"] + true["long"],
            "gen_ai.usage.reasoning.output_tokens": true["reasoning"],
        },
    }  # fmt: skip


@given(truth)
def test_every_source_tells_the_same_usage_alike(true: dict[str, int]) -> None:
    """One truth in the words of five sources gives one set of token fields."""
    chat = openai(true, "prompt", "completion")
    first = fields(from_openai_chat({"model": "m", "usage": chat}, CONTEXT))
    others = [
        from_anthropic_messages({"model": "m", "usage": anthropic(true)}, CONTEXT),
        from_openai_responses({"model": "m", "usage": openai(true, "input", "output")}, CONTEXT),
        from_litellm(litellm(chat)),
        from_litellm(litellm(anthropic(true))),
    ]
    assert all(fields(event) == first for event in others)
    # Spans do not know lifetimes.
    assert fields(from_otel_span(span(true))) == first | {"cache_write_by_ttl": []}


@given(truth)
def test_the_truth_comes_back_as_classes(true: dict[str, int]) -> None:
    """Rating finds exactly the tokens of each class that the provider counted."""
    event = from_anthropic_messages({"model": "m", "usage": anthropic(true)}, CONTEXT)
    found, assumptions = token_classes(decode(encode("UsageEvent", event | OWN))[1])
    assert {name: count for name, count in found.items() if count} == {
        name: count
        for name, count in (
            ("input", true["uncached"]), ("cache_read", true["read"]),
            ("cache_write", true["short"]), ("cache_write_3600", true["long"]),
            ("output", true["text"]), ("reasoning", true["reasoning"]),
        )
        if count
    }  # fmt: skip
    # "cache_write" holds what lives for five minutes.
    assert assumptions == ()


@given(truth, st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens"]),
       st.integers(1, 10**6))  # fmt: skip
def test_a_count_that_is_off_is_noticed(true: dict[str, int], name: str, off: int) -> None:
    """A wrong total or part is refused: the stated sums no longer agree."""
    usage = openai(true | {"reasoning": 0}, "prompt", "completion")
    usage[name] += off
    with pytest.raises(WireError):
        from_openai_chat({"model": "m", "usage": usage}, CONTEXT)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip
EVERY = [*payloads("event"), *payloads("fault")]


@given(st.data(), st.sampled_from(EVERY), anything)
def test_any_payload_is_an_event_or_a_refusal(data: st.DataObject, payload: Payload,
                                              other: Any) -> None:  # fmt: skip
    """With any value at any place, an adapter makes an encodable event or raises WireError."""
    places = [node.place for node in nodes(payload.line) if node.place]
    place = data.draw(st.sampled_from(places))
    line = changed(payload.line, [place], lambda _: other)
    try:
        encode("UsageEvent", line_adapter(payload.format)(line) | OWN)
    except WireError as error:
        assert error.detail
