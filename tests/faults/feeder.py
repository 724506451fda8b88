"""Gateways in a thread: seeded usage with resends, disorder, poison and a clock that steps."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from sluice.settings import Settings
from sluice.wire.codec import encode
from sluice.wire.kafka import producer_config, topics
from tests.builders import usage

TENANTS = 40
_BATCH = 60
Sent = tuple[bytes, bytes]  # key, value


class Feeder:
    """Writes usage until it is told to stop; whatever it numbered arrives at least once."""

    def __init__(self, settings: Settings, seed: int, per_second: float) -> None:
        self._rng = random.Random(seed)
        self._topic = topics(settings).usage
        self._pause_s = 1 / per_second
        self._producer = Producer(
            producer_config(settings, **{"message.timeout.ms": 0, "linger.ms": 20})
        )
        self._numbers = Counter[tuple[str, str, str]]()
        self._epochs = {"gw-1": "e0", "gw-2": "e0"}
        self._held: list[Sent] = []
        self._recent: list[Sent] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.clock_ms = 0  # what the broker's clock is off
        self.latest_ms = 0
        self.unique = 0
        self.poison = 0
        self.failed: list[str] = []

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def finish(self) -> None:
        """Stop; returns when the broker has acknowledged every record."""
        self._stopping.set()
        self._thread.join(60)
        with self._lock:
            for sent in self._held:
                self._send(*sent)
            self._held.clear()
        assert self._producer.flush(120) == 0, "the broker took nothing for two minutes"
        assert self.failed == []

    def _run(self) -> None:
        while not self._stopping.wait(self._pause_s):
            with self._lock:
                self._one()

    def _one(self) -> None:
        sent = self._event()
        if self._rng.random() < 0.08:
            self._held.append(sent)  # a smaller number that comes after greater ones
        else:
            self._send(*sent)
        if self._held and self._rng.random() < 0.15:
            self._send(*self._held.pop(self._rng.randrange(len(self._held))))
        if self._rng.random() < 0.04:
            self._send(*self._rng.choice(self._recent))
        if self._rng.random() < 0.01:
            self._poison(sent)

    def _event(self) -> Sent:
        rng, source = self._rng, self._rng.choice(sorted(self._epochs))
        tenant = f"tenant-{int(rng.paretovariate(0.6)) % TENANTS}"
        run = (source, self._epochs[source], tenant)
        self._numbers[run] += 1
        self.unique += 1
        at = self._now_ms() * 1000 - rng.randrange(3_000_000)
        fields: dict[str, Any] = {
            "source": source, "source_epoch": run[1], "tenant_id": tenant,
            "event_id": f"{source}-{run[1]}-{tenant}-{self._numbers[run]}",
            "occurred_at": at, "started_at": at - rng.randrange(500_000),
            "project_id": rng.choice(["p1", "p2"]), "provider_name": "p",
            "request_model": rng.choice(["small", "small", "large", "unheard-of"]),
            "input_tokens": rng.randrange(3000), "output_tokens": rng.randrange(800),
            "latency_us": rng.randrange(2_000_000), "outcome": rng.choice(["ok"] * 9 + ["error"]),
        }  # fmt: skip
        if rng.random() < 0.3:
            fields |= {"task_id": f"task-{self.unique // 60}", "agent_name": "writer"}
        value = encode("UsageEvent", usage(self._numbers[run], **fields))
        self._recent = [*self._recent[1 - _BATCH :], (tenant.encode(), value)]
        return self._recent[-1]

    def _send(self, key: bytes, value: bytes) -> None:
        at = self._now_ms()
        self.latest_ms = max(self.latest_ms, at)
        self._producer.produce(self._topic, value, key, timestamp=at, on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self.failed.append(error.str())

    def _now_ms(self) -> int:
        return int(time.time() * 1000) + self.clock_ms

    def _poison(self, sent: Sent) -> None:
        key, value = sent
        bad = [b"garbage", value[:-3], value * 2, bytes(200_000), b""]
        self._send(key, self._rng.choice(bad))
        self.poison += 1

    # ---- faults of producers

    def poison_burst(self) -> None:
        """A run of records that break their contract, between good ones."""
        with self._lock:
            for _ in range(20):
                self._one()
                self._poison(self._rng.choice(self._recent))

    def resend_shuffled(self) -> None:
        """The last batch once more, in another order."""
        with self._lock:
            again = [*self._recent, *self._recent[: len(self._recent) // 2]]
            self._rng.shuffle(again)
            for sent in again:
                self._send(*sent)

    def flood(self, count: int, tenants: int) -> None:
        """Write `count` events of many tenants as fast as the broker takes them."""
        for index in range(count):
            tenant, number = f"flood-{index % tenants}", index // tenants + 1
            at = self._now_ms() * 1000
            event = usage(number, source="gw-flood", tenant_id=tenant, occurred_at=at,
                          event_id=f"{tenant}-{number}", started_at=at, provider_name="p",
                          request_model="small", input_tokens=1000)  # fmt: skip
            value = encode("UsageEvent", event)
            while True:
                try:
                    self._send(tenant.encode(), value)
                except BufferError:
                    self._producer.poll(0.1)
                else:
                    break
        self.unique += count
        assert self._producer.flush(120) == 0

    def restart_gateway(self) -> None:
        """A gateway ends and begins a new epoch; its numbers start at 1."""
        with self._lock:
            source = self._rng.choice(sorted(self._epochs))
            self._epochs[source] = f"e{self._rng.randrange(10**9)}"

    def step_clock(self) -> None:
        """The broker's clock steps, back or forth, by up to ten minutes."""
        with self._lock:
            self.clock_ms = self._rng.choice([-600_000, -45_000, -1500, 0, 1500, 70_000, 600_000])

    def pass_time(self, seconds: int) -> None:
        """Records that only move time, one in every partition."""
        self.latest_ms += seconds * 1000
        count = len(
            self._producer.list_topics(self._topic, timeout=30).topics[self._topic].partitions
        )
        for number in range(count):
            self._producer.produce(
                self._topic, encode("Tick", {}), partition=number, timestamp=self.latest_ms
            )
        assert self._producer.flush(60) == 0
