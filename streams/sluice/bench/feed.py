"""A producer that keeps a steady rate whatever the pipeline does: the load beside a latency probe.

Run as a process of its own: `python -m sluice.bench.feed BOOTSTRAP TOPIC CACHE EVENTS SEED RATE`.
It goes on until it is told to end: when the workload is used up, its sources begin a new epoch.
"""

from __future__ import annotations

import sys
import time
from itertools import count
from pathlib import Path

from confluent_kafka import Producer

from sluice.bench.drain import produce
from sluice.bench.workload import Mix, load

_MILLISECOND_S = 0.001
_READY = "ready"
_AGE_US = 3_000_000  # older than the disorder: no event lies in the future


def main() -> None:
    """Produce each event at its time, in bursts of about a millisecond."""
    bootstrap, topic, cache, events, seed, rate = sys.argv[1:]
    work = load(Mix(int(events), "full", int(seed)), Path(cache))
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random",
                         "linger.ms": 2, "acks": "all"})  # fmt: skip
    per_s = float(rate)
    ready = False
    for epoch in count(1):
        step_us = 1_000_000 / per_s
        occurred_at = work.occurred_at(time.time_ns() // 1000 - _AGE_US, step_us)
        records = list(work.records(occurred_at, epoch))
        if not ready:
            print(_READY, flush=True)
            ready = True
        _feed(producer, topic, records, per_s)


def _feed(producer: Producer, topic: str, records: list[tuple[bytes, bytes]], per_s: float) -> None:
    begun = time.monotonic()
    for number, (key, value) in enumerate(records):
        while number > (time.monotonic() - begun) * per_s:
            producer.poll(0)
            time.sleep(_MILLISECOND_S)
        produce(producer, topic, key, value)


if __name__ == "__main__":
    main()
