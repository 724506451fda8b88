"""What a metered call costs a gateway: `python tests/bench/call_overhead.py`.

Prints one JSON line per case with microseconds per call: the context alone (its events go nowhere),
and with the real emitter's write-ahead log behind it (no broker needed, nothing is delivered).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import quantiles
from typing import Any

from sluice.admission.metered import Metered
from sluice.admission.point import AdmissionPoint
from sluice.admission.verdict import AdmissionRequest
from sluice.wire.emitter import UsageEmitter

CALLS = 20_000
CHUNKS = 100
REQUEST = AdmissionRequest("acme", "chat", "gpt-4o", estimated_cost_pusd=9, max_output_tokens=500)
BODY = bytes(2000)
STREAM = [bytes(250)] * CHUNKS


class Nowhere:
    """An emitter that drops everything."""

    def emit(self, event: Mapping[str, Any]) -> None:
        """Drop one event."""


def plain(metered: Metered) -> None:
    """Admission, one request body, one answer, usage, settlement."""
    with metered.call(REQUEST, provider_name="openai", slo_latency_us=10**7) as call:
        call.sent(BODY)
        call.received(BODY)
        call.usage(input_tokens=400, output_tokens=90, response_model="gpt-4o-2024-08-06")


def streaming(metered: Metered) -> None:
    """The same with an answer of 100 chunks."""
    with metered.call(REQUEST, provider_name="openai", stream=True) as call:
        call.sent(BODY)
        for _ in call.wrap_stream(STREAM):
            pass
        call.usage(input_tokens=400, output_tokens=90)


def tool(metered: Metered) -> None:
    """A task's tool call with hashed arguments and result."""
    with metered.task(REQUEST).tool("search", args={"q": "abc", "n": 5}) as call:
        call.received(BODY)
        call.result({"hits": [1, 2, 3]})


def measure(case: Callable[[Metered], None], metered: Metered, calls: int) -> dict[str, float]:
    """Mean CPU and percentiles of wall time per call, µs."""
    for _ in range(calls // 10):
        case(metered)
    walls, began = [], time.process_time_ns()
    for _ in range(calls):
        start = time.perf_counter_ns()
        case(metered)
        walls.append((time.perf_counter_ns() - start) / 1000)
    cpu = (time.process_time_ns() - began) / 1000 / calls
    cuts = quantiles(walls, n=100)
    return {"p50_us": round(cuts[49], 1), "p99_us": round(cuts[98], 1), "cpu_us": round(cpu, 1)}


def main() -> None:
    """Measure every case."""
    point = AdmissionPoint()
    point.adopt(point.empty_state())
    for case in (plain, streaming, tool):
        figures = measure(case, Metered(point, Nowhere()), CALLS)
        print(json.dumps({"case": case.__name__, "emitter": "none", **figures}))
    config = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
    with tempfile.TemporaryDirectory() as folder:
        emitter = UsageEmitter(config, "usage", "bench", Path(folder))
        figures = measure(plain, Metered(point, emitter), CALLS)
        print(json.dumps({"case": "plain", "emitter": "write-ahead log", **figures}))
        emitter.close(0)


if __name__ == "__main__":
    sys.exit(main())
