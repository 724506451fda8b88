"""A producer that keeps a steady rate whatever the pipeline does: the load beside a latency probe.

Run as a process of its own: `python -m sluice.bench.feed BOOTSTRAP TOPIC CACHE EVENTS SEED RATE`.
It ends when the workload is used up or it is told to.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from confluent_kafka import Producer

from sluice.bench.drain import produce
from sluice.bench.workload import Mix, load

_MILLISECOND_S = 0.001
_READY = "ready"


def main() -> None:
    """Produce each event at its time, in bursts of about a millisecond."""
    bootstrap, topic, cache, events, seed, rate = sys.argv[1:]
    work = load(Mix(int(events), "full", int(seed)), Path(cache))
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random",
                         "linger.ms": 2, "acks": "all"})  # fmt: skip
    per_s = float(rate)
    occurred_at = work.occurred_at(time.time_ns() // 1000 - 3_000_000, 1_000_000 / per_s)
    records = list(work.records(occurred_at))
    print(_READY, flush=True)
    begun = time.monotonic()
    for number, (key, value) in enumerate(records):
        while number > (time.monotonic() - begun) * per_s:
            producer.poll(0)
            time.sleep(_MILLISECOND_S)
        produce(producer, topic, key, value)
    producer.flush(30)


if __name__ == "__main__":
    main()
