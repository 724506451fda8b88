"""How long a usage event takes to become a decision that a reader of committed records has.

Every trial is a new tenant whose first event exceeds a tiny budget, or a new end user's, whose
budget spans tenants. The clock runs from handing the event to the producer until the decision about
it came out of the consumer.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition

from sluice.bench.drain import drain, end_offsets
from sluice.bench.figures import Figure, Report, machine
from sluice.bench.ground import Ground, Pipeline, owned, until
from sluice.bench.workload import Mix, load, models
from sluice.enforcement.policy_file import load_policy
from sluice.errors import OutsideError
from sluice.local.jars import kafka_version
from sluice.runtime.publish import publish_policy, withdraw_policy
from sluice.settings import Settings
from sluice.wire.codec import encode
from sluice.wire.kafka import consumer_config, producer_config, topics

IDLE_P50_MS, IDLE_P99_MS, HALF_P99_MS = 10.0, 25.0, 150.0

TINY_POLICY = """
policy_id: bench-tiny
budgets:
  - budget_id: tenant-day
    scope: [tenant_id]
    unit: usd
    limit: "0.000001"
    period: day
    rules: [{rule_id: stop, at: 100%, action: block}]
"""
ACROSS_POLICY = TINY_POLICY.replace("bench-tiny", "bench-across").replace(
    "[tenant_id]", "[end_user_hash]"
)
_TRIAL_S = 20.0
_WARM_TRIALS = 10
_LOAD_WARM_S = 3.0


class Spread(NamedTuple):
    """Times of all trials, in ms."""

    p50: float
    p95: float
    p99: float
    max: float


def run(ground: Ground, events: int, trials: int, seed: int, cache: Path) -> Report:
    """Measure an idle pipeline, then one that takes half of what it could at most."""
    tell = ground.tell
    work = load(Mix(events, "full", seed), cache, tell)
    tell(f"the maximum: one meter works off {events:,} events")
    with ground.pipeline("maximum") as pipeline:
        most = drain(pipeline, work)
    rate = most.per_s / 2
    with ground.pipeline("decisions") as pipeline:
        publish_policy(pipeline.settings, load_policy(TINY_POLICY, "bench"))
        pipeline.meters()
        tell(f"idle: {trials} trials")
        idle = spread(Probe(pipeline.settings, "idle").trials(trials))
        across = _across(pipeline, trials, tell)
        tell(f"at {rate:,.0f} events/s: {trials} trials")
        with feeding(ground, pipeline, cache, Mix(events, "full", seed), rate):
            half = spread(Probe(pipeline.settings, "half").trials(trials))
    figures = [
        *_figures("idle", idle, IDLE_P50_MS, IDLE_P99_MS),
        *_figures("half", half, None, HALF_P99_MS),
        *_figures("across", across, None, None),
        Figure("maximum", round(most.per_s), "events/s"),
        Figure("half_rate", round(rate), "events/s"),
    ]
    settings = {"events": events, "trials": trials, "seed": seed, "partitions": 4,
                "fetch_wait_ms": 10, "kafka": kafka_version()}  # fmt: skip
    return Report("latency", machine(), settings, figures)


def _across(pipeline: Pipeline, trials: int, tell: Callable[[str], None]) -> Spread:
    """The way over the rollup, on an otherwise idle pipeline."""
    rollup = pipeline.start("rollup", "rollup")
    until(lambda: len(owned(rollup)) == 1, "the rollup to own its partition")
    publish_policy(pipeline.settings, load_policy(ACROSS_POLICY, "bench"))
    tell(f"budgets that span tenants: {trials} trials")
    times = Probe(pipeline.settings, "across", "end_user_hash").trials(trials)
    withdraw_policy(pipeline.settings, "bench-across")
    rollup.stop()
    return spread(times)


def _figures(name: str, times: Spread, p50: float | None, p99: float | None) -> list[Figure]:
    return [
        Figure(f"{name}_p50", times.p50, "ms", p50),
        Figure(f"{name}_p95", times.p95, "ms"),
        Figure(f"{name}_p99", times.p99, "ms", p99),
        Figure(f"{name}_max", times.max, "ms"),
    ]


def spread(times_ms: list[float]) -> Spread:
    """Percentiles of at least two times, interpolated between neighbours."""
    cuts = quantiles(times_ms, n=100, method="inclusive")
    return Spread(*(round(value, 2) for value in (cuts[49], cuts[94], cuts[98], max(times_ms))))


class Probe:
    """Sends single events and waits for the decisions about them, which name them in `field`."""

    def __init__(self, settings: Settings, name: str, field: str = "tenant_id") -> None:
        self._field = field
        names = topics(settings)
        self._name = name
        self._topic = names.usage
        self._producer = Producer(producer_config(settings, **{"linger.ms": 0}))
        self._consumer = Consumer(consumer_config(settings))
        ends = end_offsets(settings, names.control)
        self._consumer.assign([TopicPartition(names.control, n, at) for n, at in ends.items()])
        self._random = random.Random(1)  # noqa: S311 (spreads the trials, keeps no secret)

    def trials(self, count: int) -> list[float]:
        """Times of `count` trials in ms, after some that only warm the path up."""
        try:
            for number in range(_WARM_TRIALS):
                self._trial(-1 - number)
            return [self._trial(number) for number in range(count)]
        finally:
            self._consumer.close()

    def _trial(self, number: int) -> float:
        # Trials must not fall into step with timers of the pipeline.
        time.sleep(0.02 + self._random.random() * 0.05)
        whose = f"{self._name}{number}"
        # One tenant has all users, so that nothing but their own budget is crossed.
        tenant = whose if self._field == "tenant_id" else self._name
        value, wanted = self._event(tenant, whose), f"|{self._field}={whose}|".encode()
        begun = time.perf_counter()
        self._producer.produce(self._topic, value, tenant)
        self._producer.poll(0)
        while time.perf_counter() - begun < _TRIAL_S:
            message = self._consumer.poll(0.1)
            if message is not None and not message.error() and wanted in (message.key() or b""):
                return (time.perf_counter() - begun) * 1000
        raise OutsideError(f"no decision about {whose} within {_TRIAL_S:.0f} s")

    def _event(self, tenant: str, whose: str) -> bytes:
        now, model = time.time_ns() // 1000, models()[0]
        return encode("UsageEvent", {
            "event_id": f"{whose}-1", "source": "probe", "source_epoch": whose,
            "source_seq": 1, "event_type": "inference", "occurred_at": now, "started_at": now,
            "tenant_id": tenant, "end_user_hash": whose, "project_id": "probe",
            "operation_name": "chat", "provider_name": model.provider or "openai",
            "request_model": model.model, "input_tokens": 1000, "output_tokens": 1000,
            "outcome": "ok",
        })  # fmt: skip


@contextmanager
def feeding(
    ground: Ground, pipeline: Pipeline, cache: Path, mix: Mix, rate: float
) -> Iterator[None]:
    """A steady load beside what is measured, from another process."""
    argv = [sys.executable, "-m", "sluice.bench.feed", ground.bootstrap,
            topics(pipeline.settings).usage, str(cache.resolve()), str(mix.events), str(mix.seed),
            str(rate)]  # fmt: skip
    feeder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        if feeder.stdout is None or not feeder.stdout.readline():
            raise OutsideError(f"the load ended with {feeder.wait()} before it began")
        time.sleep(_LOAD_WARM_S)
        yield
        if feeder.poll() is not None:
            raise OutsideError(f"the load ended with {feeder.returncode} beside the trials")
    finally:
        feeder.terminate()
        feeder.wait()
