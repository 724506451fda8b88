"""Usage of every kind that prices tell apart, and price books that tell them apart, for laws."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from tests.builders import NOW
from tests.laws.streams import MINUTE

from sluice.metering.contracts import Contract
from sluice.metering.prices import PriceBook, PriceEntry
from sluice.metering.rates import Tier, ToolPrice

_PLAIN = {"input": 7, "cache_read": 1, "cache_write": 9, "output": 30}
_LATER = NOW + 40 * MINUTE


def _entry(model: str, *tiers: Tier, provider: str | None = "p", **over: Any) -> PriceEntry:
    return PriceEntry(model, provider, tiers or (Tier("", 0, _PLAIN),), **over)


RICH = PriceBook(
    "rich", "hand", "none",
    (
        _entry("plain", effective_to=NOW), _entry("plain", Tier("", 0, {**_PLAIN, "input": 8}),
                                                  effective_from=NOW),
        _entry("bare", Tier("", 0, {"input": 3, "output": 5})),
        _entry("deaf", Tier("", 0, {"output": 5})),
        _entry("fee", Tier("", 0, {**_PLAIN, "request": 1000, "gpu_us": 77})),
        _entry("tiers", Tier("", 0, _PLAIN), Tier("batch", 0, {"input": 2}),
               Tier("", 1000, {"input": 70, "output": 90})),
        _entry("units", Tier("", 0, {"images": 5, "input": 0})),
        _entry("unit", Tier("", 0, {"seconds_milli": 5})),
        _entry("large", Tier("", 0, {**_PLAIN, "input": 2**60})),
        _entry("shared", provider=None), _entry("plain", tenant_id="acme"),
        _entry("agent", Tier("", 0, {**_PLAIN, "tool_call": 11, "web_search": 3})),
    ),
    tools=(ToolPrice("search", None, {"tool_call": 5}),
           ToolPrice("gpu", None, {"tool_call": 5, "gpu_us": 9}),
           ToolPrice("search", "mcp", {"tool_call": 6}, effective_from=_LATER)),
    contracts=(Contract("beta", Decimal("0.85")), Contract("beta", Decimal("1.3333"), model="bare"),
               Contract("gamma", Decimal(1), effective_to=_LATER)),
)  # fmt: skip
SIMPLE = PriceBook("simple", "hand", "none", (_entry("plain"), _entry("tiers")))

_amounts = st.lists(
    st.fixed_dictionaries(
        {"key": st.sampled_from(["images", "300", "3600", "input.audio", "web_search", "x"]),
         "value": st.integers(0, 50)}),
    max_size=2,
)  # fmt: skip
_tokens = st.one_of(st.integers(0, 900), st.sampled_from([0, 0, 1000, 1001, 10**6]))
_sound = st.fixed_dictionaries(
    {
        "event_type": st.sampled_from(["inference"] * 6 + ["embedding", "tool", "tool", "admission",
                                       "gpu_adjustment"]),
        "request_model": st.sampled_from(["plain", "plain", "bare", "deaf", "fee", "tiers", "units",
                                          "unit", "large", "shared", "agent", "unheard-of"]),
        "provider_name": st.sampled_from(["p", "p", "p", "q"]),
        "tenant_id": st.sampled_from(["acme", "beta", "gamma", "delta"]),
        "tokens": st.tuples(_tokens, _tokens, _tokens, _tokens, _tokens),
        "shift": st.sampled_from([0, 0, -1, 1, -MINUTE, 40 * MINUTE, 40 * MINUTE - 1]),
    },
    optional={
        "response_model": st.sampled_from([None, "plain", "bare", ""]),
        "service_tier": st.sampled_from([None, "", "default", "batch", "Batches", "flex"]),
        "outcome": st.sampled_from(["ok", "rejected", "throttled", "error"]),
        "tool_name": st.sampled_from([None, "search", "gpu", "other"]),
        "tool_server": st.sampled_from([None, "mcp"]),
        "cost_pusd": st.sampled_from([None, 0, 5]),
        "cost_source": st.sampled_from([None, "provider", "contract", "estimate"]),
        "price_book_version": st.sampled_from([None, "v", RICH.version]),
        "agent_name": st.sampled_from([None, "", "größer", "n" * 256]),
        "stream": st.sampled_from([None, True, False]),
        "gpu_us": st.sampled_from([None, 0, 5]),
        "attributes": st.integers(0, 16).map(lambda n: [{"key": "k", "value": "v"}] * n),
        "risk_flags": st.sampled_from([[], ["burst", "loop"]]),
        "prefix_block_ids": st.sampled_from([[], [-1, 2**63 - 1]]),
    },
)  # fmt: skip
odd_fields = st.sampled_from(
    [{"kv_byte_ms": 10**18}, {"kv_byte_ms": 0}, {"output_tokens": 10**15},
     {"event_type": "correction", "corrects_event_id": "e", "cost_pusd": -5},
     {"event_type": "correction", "corrects_event_id": "e", "baseline_q50_pusd": 1,
      "baseline_q95_pusd": 2, "original_cost_pusd": 3},
     {"cost_pusd": 9 * 10**18, "cost_source": "provider"}]
)  # fmt: skip
wrong_fields = st.sampled_from(
    [{"event_type": "party"}, {"tenant_id": ""}, {"source": ""}, {"attempt": -1}, {"step": -1},
     {"source_seq": 0}, {"end_mark": 91}, {"input_tokens": -1}, {"output_tokens": 10**15 + 1},
     {"cost_pusd": 9 * 10**18 + 1}, {"reasoning_output_tokens": 10**7}, {"occurred_at": 0},
     {"rejected_prediction_tokens": 10**7}, {"recomputed_input_tokens": 10**7},
     {"cache_read_input_tokens": 10**14}, {"started_at": NOW + 10**10}, {"latency_us": -1},
     {"scheduled_at": NOW + 9 * 10**11}, {"occurred_at": NOW + 10**12}, {"tool_name": "n" * 257},
     {"tool_name": "ü" * 129}, {"attributes": [{"key": "k", "value": "v"}] * 17},
     {"risk_flags": ["x"] * 65}, {"risk_flags": ["x" * 257]}, {"event_type": "correction"},
     {"cache_write_by_ttl": [{"key": "300", "value": 10**9}]},
     {"units": [{"key": "images", "value": -1}]}]
)  # fmt: skip
listed_fields = st.dictionaries(
    st.sampled_from(["units", "cache_write_by_ttl", "tokens_by_modality", "server_tool_requests"]),
    _amounts, max_size=2,
)  # fmt: skip


def _event(drawn: dict[str, Any]) -> dict[str, Any]:
    """Fields of a drawn event; a tool calls without tokens."""
    fresh, read, written, output, thought = drawn.pop("tokens")
    at = NOW + drawn.pop("shift")
    fields = {"occurred_at": at, "started_at": min(at, NOW - MINUTE)}
    if drawn["event_type"] in ("inference", "embedding"):
        fields |= {
            "input_tokens": fresh + read + written, "cache_read_input_tokens": read,
            "cache_write_input_tokens": written, "output_tokens": output + thought,
            "reasoning_output_tokens": thought, "recomputed_input_tokens": read,
        }  # fmt: skip
    else:
        fields |= {"input_tokens": 0, "output_tokens": 0}
    return {**fields, **drawn}


sound_events = _sound.map(_event)
any_events = st.one_of(
    *[sound_events] * 6,
    st.builds(dict.__or__, sound_events, odd_fields),
    st.builds(dict.__or__, sound_events, wrong_fields),
    st.builds(dict.__or__, sound_events, listed_fields),
)
