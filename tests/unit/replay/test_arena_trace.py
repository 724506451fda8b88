"""The trace that travels with the package, and the demo's policy on it."""

from __future__ import annotations

import gzip
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from sluice.metering.prices import default_book
from sluice.replay.arena import packaged_trace, packed
from sluice.replay.demo import demo_policy
from sluice.replay.events import MAX_OUTPUT_TOKENS
from sluice.replay.proof import price_pusd, usd_prices
from sluice.replay.traces import read_trace

DATA = files("sluice.replay") / "data"
ARENA = "vtc-arena-multitenant"


def test_the_packaged_trace_is_small_and_attributed() -> None:
    """It has 1,500 requests of 27 tenants in less than 60 kB, and says where it comes from."""
    trace = packaged_trace()
    assert len(trace.requests) == 1500
    assert len({request.tenant_id for request in trace.requests}) == 27
    assert len((DATA / "vtc-arena-fcfs.jsonl.gz").read_bytes()) < 60_000
    attribution = (DATA / "ATTRIBUTION.md").read_text()
    assert "Apache License, Version 2.0" in attribution
    assert "Ying1123/VTC-artifact" in attribution


def test_no_request_of_the_arena_got_more_than_it_declares() -> None:
    """Each measured output fits into max_tokens 1,024."""
    assert max(r.output_tokens for r in packaged_trace().requests) <= MAX_OUTPUT_TOKENS


def test_the_packaged_trace_equals_the_original(shared_traces: Path) -> None:
    """Packing lost nothing that a replay uses, and can be done again."""
    original = shared_traces / ARENA / "FCFS_real.jsonl"
    assert packaged_trace().requests == read_trace(original, "vtc").requests
    packaged = gzip.decompress((DATA / "vtc-arena-fcfs.jsonl.gz").read_bytes())
    assert gzip.decompress(packed(original)) == packaged


@pytest.mark.parametrize(
    ("format", "path", "requests"),
    [
        ("vtc", f"{ARENA}/LShare_rpm5_real.jsonl", 1500),
        ("azure", "azure-llm-2023/AzureLLMInferenceTrace_code.csv", 8819),
        ("mooncake", "mooncake-fast25/synthetic_trace.jsonl", 3993),
        ("vllm-bench", "vllm-bench-llmservingsim/RTX4090_Llama-3.1-8B", 300),
        ("vllm-bench", "vllm-bench-llmservingsim/RTXPRO6000_Llama-3.1-8B", 300),
        ("vllm-bench", "vllm-bench-llmservingsim/RTXPRO6000_Qwen3-32B", 300),
        ("tau-bench", "tau-bench-airline/gpt-4o-airline.json", 2454 + 1164),
    ],
)
def test_original_traces_are_read_whole(
    shared_traces: Path, format: str, path: str, requests: int
) -> None:
    """No line of a published trace is refused, and every row becomes a request."""
    trace = read_trace(shared_traces / path, format)
    assert len(trace.requests) == requests
    assert trace.faults == []


def test_the_demos_heavy_tenants_exceed_its_budget_and_the_others_do_not() -> None:
    """Unrestricted, six tenants would overspend, and each run starts a budget of its own."""
    prices = usd_prices(default_book().to_json())
    spend: Counter[str] = Counter()
    for request in packaged_trace().requests:
        facts = {"event_type": "inference", "outcome": "ok", "request_model": request.model,
                 "provider_name": request.provider_name, "input_tokens": request.input_tokens,
                 "output_tokens": request.output_tokens, "cache_read_input_tokens": 0,
                 "cache_write_input_tokens": 0, "reasoning_output_tokens": 0}  # fmt: skip
        spend[request.tenant_id] += price_pusd(facts, prices) or 0
    (budget,) = demo_policy("r1").budgets
    assert sum(amount > budget.limit for amount in spend.values()) == 6
    assert demo_policy("r1").policy_id != demo_policy("r2").policy_id
    assert demo_policy("r1").budgets == demo_policy("r2").budgets
