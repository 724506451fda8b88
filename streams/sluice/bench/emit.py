"""The loop of the emitter's benchmark.

Run as a process of its own: `python -m sluice.bench.emit BOOTSTRAP TOPIC EVENTS SEED`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

from sluice.bench.workload import Mix, drawn_events
from sluice.errors import SluiceError
from sluice.wire.emitter import UsageEmitter

_OWN = ("event_id", "source", "source_epoch", "source_seq")
_FLUSH_S = 120.0
_SAMPLE = 1000
_NOWHERE = "127.0.0.1:1"


def main() -> None:
    """Print CPU and wall seconds until everything was acknowledged, and the times of `emit`."""
    bootstrap, topic, events, seed = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    made = [_as_given(event) for event in drawn_events(Mix(int(events), "full", int(seed)))]
    folder = Path(tempfile.mkdtemp(dir="."))
    producer = {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"}
    with UsageEmitter(producer, topic, "bench", folder, wal_max_bytes=2**31) as emitter:
        begun, begun_cpu = time.monotonic(), time.process_time()
        times = _emit(emitter, made)
        left = emitter.flush(_FLUSH_S)
        cpu_s, wall_s = time.process_time() - begun_cpu, time.monotonic() - begun
        if left:
            raise SluiceError(f"{left} events were not acknowledged within {_FLUSH_S:.0f} s")
        acknowledged = emitter.stats().acknowledged
    cuts = quantiles(times, n=100, method="inclusive")
    print(json.dumps({
        "acknowledged": acknowledged, "cpu_s": cpu_s, "wall_s": wall_s,
        "p50_us": round(cuts[49] / 1000, 1), "p99_us": round(cuts[98] / 1000, 1),
        "max_us": round(max(times) / 1000, 1),
        "wal_bytes": round(_wal_bytes(made[:_SAMPLE], topic), 1),
    }))  # fmt: skip


def _as_given(event: dict[str, Any]) -> dict[str, Any]:
    """An event as a gateway hands it over: what the emitter fills in is left out."""
    now = time.time_ns() // 1000
    return {k: v for k, v in event.items() if k not in _OWN} | {
        "occurred_at": now, "started_at": now,
    }  # fmt: skip


def _wal_bytes(events: list[dict[str, Any]], topic: str) -> float:
    """Bytes per event in a log that nothing is taken out of, because no broker answers."""
    folder, producer = (
        Path(tempfile.mkdtemp(dir=".")),
        {"bootstrap.servers": _NOWHERE, "log_level": 0},
    )
    emitter = UsageEmitter(producer, topic, "bench", folder)
    for event in events:
        emitter.emit(event)
    stats = emitter.stats()
    emitter.close(0)
    return stats.wal_bytes / len(events)


def _emit(emitter: UsageEmitter, events: list[dict[str, Any]]) -> list[int]:
    """Emit all events; returns the time of each call in ns."""
    clock, emit, times = time.perf_counter_ns, emitter.emit, []
    for event in events:
        begun = clock()
        emit(event)
        times.append(clock() - begun)
    return times


if __name__ == "__main__":
    main()
