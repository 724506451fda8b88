"""How fast meters work off a backlog, and whether their window rows are exact."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from sluice.bench.ground import Pipeline, Worker, owned, until
from sluice.bench.workload import RowKey, Sums, Workload
from sluice.enforcement.policy_file import load_policy
from sluice.errors import OutsideError, SluiceError
from sluice.runtime.publish import publish_policy
from sluice.settings import Settings
from sluice.wire.codec import decode
from sluice.wire.kafka import consumer_config, producer_config, topics

# In force for every tenant and never reached: what budgets cost while nothing happens.
ROOMY_POLICY = """
policy_id: bench
budgets:
  - budget_id: tenant-day
    scope: [tenant_id]
    unit: usd
    limit: "1000000"
    period: day
    rules:
      - {rule_id: slow, at: 80%, action: rate_limit, rate_per_minute: 30}
      - {rule_id: stop, at: 100%, action: block}
  - budget_id: tenant-month
    scope: [tenant_id]
    unit: usd
    limit: "5000000"
    period: month
    rules:
      - {rule_id: stop, at: 100%, action: block}
"""
_PUBLISH_S = 60.0


class Drain(NamedTuple):
    """What it took to work off a backlog; memory of the largest meter, start of all meters."""

    events: int
    wall_s: float
    cpu_s: float
    start_cpu_s: float
    peak_rss_bytes: int

    @property
    def per_cpu_s(self) -> float:
        """Events per CPU second of the meters."""
        return self.events / self.cpu_s

    @property
    def per_s(self) -> float:
        """Events per second of wall time."""
        return self.events / self.wall_s


def drain(pipeline: Pipeline, work: Workload, *, meters: int = 1) -> Drain:
    """Load the workload while started meters are held, let them go, wait for the last commit.

    Their start is measured apart, so that it does not hide in the rate of a short run; at the end
    they are stopped. Raises SluiceError when a window row differs from the generator's sums.
    """
    publish_policy(pipeline.settings, load_policy(ROOMY_POLICY, "bench"))
    workers = pipeline.meters(meters)
    for worker in workers:
        worker.hold()
    occurred_at = work.occurred_at(_first_us(work))
    fill(pipeline.settings, work.records(occurred_at))
    ends = end_offsets(pipeline.settings, topics(pipeline.settings).usage)
    begun_cpu, begun = [worker.cpu_s() for worker in workers], time.monotonic()
    for worker in workers:
        worker.go()
    until(lambda: passed(_committed(workers), ends), "the meters to commit the backlog")
    wall_s = time.monotonic() - begun
    done = Drain(
        len(work), wall_s, sum(worker.cpu_s() for worker in workers) - sum(begun_cpu),
        sum(begun_cpu), max(worker.peak_rss_bytes() for worker in workers),
    )  # fmt: skip
    check_windows(pipeline.settings, work.answer(occurred_at))
    for worker in workers:
        worker.stop()
    return done


def _first_us(work: Workload) -> int:
    """Begin of an event time that ends a minute ago, so that every event lies in the past."""
    span_us = int(work.occurred_at(0).max())
    return time.time_ns() // 1000 - span_us - 60_000_000


def passed(positions: Mapping[Any, int], ends: Mapping[Any, int]) -> bool:
    """Whether every end was reached; a meter's ticks may take a position beyond it."""
    return all(positions.get(place, -1) >= end for place, end in ends.items())


def _committed(meters: list[Worker]) -> dict[int, int]:
    return {p["partition"]: p["committed"] for meter in meters for p in owned(meter)}


def fill(settings: Settings, records: Iterable[tuple[bytes, bytes]]) -> None:
    """Append keys and values to the usage topic and wait until the broker has them."""
    producer = Producer(producer_config(
        settings, **{"linger.ms": 20, "batch.size": 2**18,
                     "queue.buffering.max.messages": 500_000},
    ))  # fmt: skip
    topic = topics(settings).usage
    for number, (key, value) in enumerate(records):
        produce(producer, topic, key, value)
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise OutsideError("the broker did not take the workload within 60 s")


def produce(producer: Producer, topic: str, key: bytes, value: bytes) -> None:
    """Hand over one record; waits while the producer's queue is full."""
    while True:
        try:
            producer.produce(topic, value, key)
        except BufferError:
            producer.poll(0.05)
        else:
            return


def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """Where each partition of a topic ends now."""
    consumer = Consumer(consumer_config(settings))
    try:
        known = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        places = [TopicPartition(topic, number) for number in sorted(known)]
        return {p.partition: consumer.get_watermark_offsets(p, timeout=10)[1] for p in places}
    except KafkaException as error:
        raise OutsideError(f"Kafka did not answer: {error.args[0].str()}") from error
    finally:
        consumer.close()


def check_windows(settings: Settings, answer: Mapping[RowKey, Sums]) -> None:
    """Wait until the window rows count all events, then compare every row with the answer."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    consumer = Consumer(consumer_config(settings))
    wanted = sum(sums.events for sums in answer.values())
    topic, deadline = topics(settings).windows, time.monotonic() + _PUBLISH_S
    consumer.assign([TopicPartition(topic, n, 0) for n in range(settings.partitions)])
    try:
        while sum(row["events"] for row in rows.values()) < wanted:
            if time.monotonic() > deadline:
                break
            for message in consumer.consume(20_000, 0.2):
                if message.error() is None:
                    _keep_newest(rows, decode(message.value() or b"")[1])
    finally:
        consumer.close()
    compare(rows.values(), answer)


def _keep_newest(rows: dict[tuple[Any, ...], dict[str, Any]], row: dict[str, Any]) -> None:
    identity = (_row_key(row), row["lane"])
    if identity not in rows or rows[identity]["version"] <= row["version"]:
        rows[identity] = row


def _row_key(row: Mapping[str, Any]) -> RowKey:
    return row["window_start"], row["tenant_id"], row["project_id"], row["model"], row["tool"]


def compare(rows: Iterable[Mapping[str, Any]], answer: Mapping[RowKey, Sums]) -> None:
    """Raise SluiceError, with an example, where rows (lanes added up) differ from the answer."""
    found: dict[RowKey, list[int]] = defaultdict(lambda: [0] * len(Sums._fields))
    for row in rows:
        sums = found[_row_key(row)]
        for place, name in enumerate(Sums._fields):
            sums[place] += row[name]
    wrong = [k for k in answer.keys() | found.keys() if tuple(found.get(k, ())) != answer.get(k)]
    if wrong:
        shown = [f"{k}: {found.get(k)} instead of {answer.get(k)}" for k in islice(wrong, 3)]
        raise SluiceError(f"{len(wrong)} window rows are wrong, such as {'; '.join(shown)}")
