"""Every trace through real gateways, broker, meter and ClickHouse: equal totals, a whole report."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.integration.conftest import Stack

from sluice.replay.airline import packaged_tasks
from sluice.replay.arena import packaged_trace
from sluice.replay.proof import CONFIRM_S, compare, count, prove, usd_prices
from sluice.replay.report import Report, gather, rows_of
from sluice.replay.rows import Extent
from sluice.replay.run import Gateways, Replay, new_run_id
from sluice.replay.spending import Spend
from sluice.replay.traces import Trace, read_trace
from sluice.runtime.publish import price_book_in_force

pytestmark = pytest.mark.integration

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "traces"
TRACES = Path(os.environ.get("SLUICE_TRACES", _BESIDE))
ARENA, BENCH = "vtc-arena-multitenant", "vllm-bench-llmservingsim"
# Name of a case -> format and path; "" stands for what travels with the package.
CASES = {
    "packaged arena": ("", ""),
    "packaged tasks": ("", ""),
    **{f"vtc {name}": ("vtc", f"{ARENA}/{name}_real.jsonl")
       for name in ("FCFS", "VTC", "LCF", "LShare_rpm5", "LShare_rpm20")},
    "azure": ("azure", "azure-llm-2023/AzureLLMInferenceTrace_code.csv"),
    "mooncake": ("mooncake", "mooncake-fast25/synthetic_trace.jsonl"),
    **{f"vllm {name}": ("vllm-bench", f"{BENCH}/{name}")
       for name in ("RTX4090_Llama-3.1-8B", "RTXPRO6000_Llama-3.1-8B", "RTXPRO6000_Qwen3-32B")},
    "tau-bench": ("tau-bench", "tau-bench-airline/gpt-4o-airline.json"),
    "servegen reason": ("servegen", "servegen/reason-deepseek-r1.tar.gz"),
    "servegen images": ("servegen", "servegen/multimodal-mm-image.tar.gz"),
}  # fmt: skip
TASKS = {"packaged tasks": 10, "tau-bench": 200}
REQUESTS = 1000
LASTS_S = 4


class Played(NamedTuple):
    """A trace and what became of it."""

    trace: Trace
    report: Report


def trace_of(name: str) -> Trace | None:
    """The trace of a case, tasks whole and others cut; None where this machine lacks it."""
    if name == "packaged tasks":
        return packaged_tasks()
    if name == "packaged arena":
        return packaged_trace()
    kind, place = CASES[name]
    if not (TRACES / place).exists():
        return None
    return read_trace(TRACES / place, kind, wanted=Extent(None if name in TASKS else REQUESTS))


def speed_of(trace: Trace) -> float:
    """How fast a trace must run to last a few seconds."""
    return max(1.0, max(r.arrival_us + (r.latency_us or 0) for r in trace.requests) / 1e6 / LASTS_S)


@pytest.fixture(scope="module")
def played(stack: Stack) -> dict[str, Played]:
    """All traces of this machine, replayed side by side and compared when all is there."""
    traces = {name: trace for name in CASES if (trace := trace_of(name))}
    book = price_book_in_force(stack.settings)
    assert book is not None
    ids = {name: f"{new_run_id()}-{number}" for number, name in enumerate(traces)}
    runs = {name: Gateways(stack.settings, trace, ids[name], speed_of(trace), 1, book)
            for name, trace in traces.items()}  # fmt: skip
    try:
        while sum(run.tend() for run in runs.values()):
            time.sleep(0.1)
    finally:
        for run in runs.values():
            run.stop()
    rows = partial(rows_of, stack.settings)
    replays = {name: Replay(ids[name], run.folder, run.begin or 0, run.progress())
               for name, run in runs.items()}  # fmt: skip
    counted = {name: count(replay.ledgers(), usd_prices(book.to_json()))
               for name, replay in replays.items()}  # fmt: skip
    for name, replay in replays.items():
        prove(counted[name], rows, replay.project_id, confirm_s=0)
    # Equal once could still be followed by a second count of something.
    time.sleep(CONFIRM_S)
    proofs = {name: compare(counted[name], rows, replay.project_id)
              for name, replay in replays.items()}  # fmt: skip
    return {name: Played(traces[name], gather(replay, proofs[name], rows, traces[name].notes))
            for name, replay in replays.items()}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_trace_replays_with_equal_totals(played: dict[str, Played], name: str) -> None:
    """Counted and priced apart from the meter, every trace costs the same to the pico-USD."""
    if name not in played:
        pytest.skip(f"no {CASES[name][1]} in {TRACES}; set SLUICE_TRACES")
    trace, report = played[name]
    assert report.differences == []
    assert report.difference_pusd == 0
    assert report.uncounted == []
    assert report.admitted + report.refused == report.requests == len(trace.requests)
    spend = report.spend
    assert spend.events == report.events == report.admitted
    assert spend.cost_pusd == report.counted_pusd > spend.above_p95_pusd > 0
    assert spend.unpriced == 0
    assert spend.good > 0
    _check_bands(spend)
    assert bool(spend.tasks) == (name in TASKS)


def _check_bands(spend: Spend) -> None:
    bands = spend.bands
    assert bands is not None
    assert bands.body_pusd + bands.shoulder_pusd + bands.tail_pusd == spend.cost_pusd
    assert sum(bands.tail_by_cause.values()) == bands.tail_pusd
    assert sum(bands.overhead_by_cause.values()) == spend.cost_pusd


@pytest.mark.parametrize("name", TASKS)
def test_agent_runs_become_tasks(played: dict[str, Played], name: str) -> None:
    """Every run is one task with its calls, its tools and the outcome that it was rewarded with."""
    if name not in played:
        pytest.skip(f"no {CASES[name][1]} in {TRACES}; set SLUICE_TRACES")
    trace, report = played[name]
    tasks = report.spend.tasks
    assert tasks is not None
    events = [request.event or {} for request in trace.requests]
    assert tasks.tasks == tasks.metered == TASKS[name]
    assert tasks.good == sum(event.get("slo_outcome") == "good" for event in events)
    assert tasks.tool_calls == sum(event["event_type"] == "tool" for event in events)
    assert tasks.calls + tasks.tool_calls == report.events
    assert tasks.max_pusd >= tasks.p95_pusd >= tasks.p50_pusd > 0
    assert tasks.per_good_pusd == report.spend.cost_pusd // tasks.good
