"""The meter on a real broker, killed at random: every record applied exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from tests.builders import FakeReferences, partition, policy, usage

from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.metering.prices import default_book
from sluice.runtime.publish import publish_policy, publish_price_book
from sluice.settings import Settings
from sluice.wire.codec import decode, encode
from sluice.wire.kafka import ensure_topics, producer_config, topics
from sluice.wire.scan import Scanned, committed_records

TENANTS = 12
EVENTS = 6000
COST_PUSD = 100 * 50_000 + 100 * 250_000


class Meters:
    """Meter processes with a supervisor's habit: what ends is started again."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, slot: str) -> None:
        """Start the worker of a slot."""
        environment = os.environ | {
            "SLUICE_KAFKA_BOOTSTRAP": self._settings.bootstrap,
            "SLUICE_SESSION_TIMEOUT_MS": "6000",
            "SLUICE_CHUNK_RECORDS": "200",
        }
        argv = [
            sys.executable,
            "-m",
            "sluice.cli",
            "meter",
            "--slot",
            slot,
            "--dir",
            str(self._folder),
        ]
        log = (self._folder / f"meter-{slot}.log").open("ab")
        self._running[slot] = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)

    def kill(self, slot: str) -> None:
        """Kill -9 and start again."""
        self._running[slot].kill()
        self._running[slot].wait()
        self.start(slot)

    def freeze(self, slot: str, seconds: float) -> None:
        """Stop a worker past its session and let it wake up as a zombie."""
        self._running[slot].send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._running[slot].send_signal(signal.SIGCONT)

    def tend(self) -> None:
        """Start again what ended."""
        for slot, process in list(self._running.items()):
            if process.poll() is not None:
                self.start(slot)

    def stop(self) -> None:
        """End all workers."""
        for process in self._running.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaNode]:
    """A broker of one's own."""
    with KafkaNode(tmp_path / "kafka", free_port(2)) as node:
        yield node


def publish(settings: Settings, seed: int) -> Counter[str]:
    """Write seeded usage with resends, disorder and poison; return events per tenant."""
    rng, sent, late = random.Random(seed), Counter[str](), []
    producer = Producer(producer_config(settings))
    usage_topic = topics(settings).usage
    for _ in range(EVENTS):
        tenant = f"tenant-{int(rng.paretovariate(0.7)) % TENANTS}"
        sent[tenant] += 1
        now = time.time_ns() // 1000
        event = usage(sent[tenant], tenant_id=tenant, occurred_at=now, started_at=now,
                      event_id=f"{tenant}-{sent[tenant]}")  # fmt: skip
        value = encode("UsageEvent", event)
        producer.produce(usage_topic, value, tenant.encode())
        if rng.random() < 0.05:
            late.append((tenant, value))
        if rng.random() < 0.01:
            producer.produce(
                usage_topic, rng.choice([b"garbage", value[:-3], value * 2]), tenant.encode()
            )
        if late and rng.random() < 0.04:
            again, resend = late.pop(0)
            producer.produce(usage_topic, resend, again.encode())
        producer.poll(0)
    producer.flush()
    return sent


def newest_rows(settings: Settings) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The window rows as a reader sees them: newest version per identity."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in committed_records(settings, topics(settings).windows):
        row = decode(record.value or b"")[1]
        identity = (
            row["tenant_id"],
            row["project_id"],
            row["model"],
            row["window_start"],
            row["lane"],
        )
        if identity not in rows or row["version"] >= rows[identity]["version"]:
            rows[identity] = row
    return rows


def totals(settings: Settings) -> tuple[Counter[str], Counter[str]]:
    """Events and cost per tenant over all window rows."""
    events, cost = Counter[str](), Counter[str]()
    for row in newest_rows(settings).values():
        events[row["tenant_id"]] += row["events"]
        cost[row["tenant_id"]] += row["cost_pusd"]
    return events, cost


def decisions(records: Iterator[Scanned]) -> list[dict[str, Any]]:
    """Decisions on the control topic, without what names the owner's epoch."""
    found = []
    for record in records:
        if record.value is not None:
            name, fields = decode(record.value)
            if name == "Decision":
                fields.pop("epoch")
                found.append(fields)
    return found


def replayed(settings: Settings) -> list[dict[str, Any]]:
    """Decisions of an undisturbed replay of the same input through the pure core."""
    references = FakeReferences(default_book(), policy())
    names = topics(settings)
    parts = [partition(references, number) for number in range(settings.partitions)]
    for record in committed_records(settings, names.usage):
        parts[record.partition].apply([record])
    outs = [out for part in parts for out in part.take() if out.topic.endswith("control.v1")]
    return decisions(Scanned(o.topic, o.partition, 0, 0, o.key, o.value, []) for o in outs)


def _by_id(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {decision["decision_id"]: decision for decision in found}


@pytest.mark.parametrize("seed", [1, 2])
def test_exact_under_kills_joins_zombies_and_broker_crash(
    broker: KafkaNode, tmp_path: Path, seed: int
) -> None:
    """After kill -9, joins, a zombie and a broker crash, totals and decisions equal the truth."""
    rng = random.Random(seed)
    settings = Settings(kafka_bootstrap=broker.bootstrap, dir=tmp_path)
    ensure_topics(settings)
    keep_every_decision(settings)
    publish_price_book(settings, default_book())
    publish_policy(settings, policy())
    meters = Meters(settings, tmp_path)
    meters.start("0")
    try:
        sent = publish(settings, seed)
        for fault in ("kill", "join", "kill", "broker", "zombie"):
            time.sleep(rng.uniform(0.5, 2.5))
            meters.tend()
            if fault == "kill":
                meters.kill("0")
            elif fault == "join":
                meters.start("1")
            elif fault == "broker":
                broker.kill()
                broker.start()
            else:
                meters.freeze("1", 9.0)
            sent += publish_more(settings, sent, seed)
        deadline = time.monotonic() + 90
        while totals(settings)[0] != sent and time.monotonic() < deadline:
            meters.tend()
            time.sleep(1)
        events, cost = totals(settings)
    finally:
        meters.stop()
    assert events == sent
    assert cost == Counter({tenant: count * COST_PUSD for tenant, count in sent.items()})
    names = topics(settings)
    written = decisions(committed_records(settings, names.control))
    assert len({d["decision_id"] for d in written}) == len(written)
    found, wanted = _by_id(written), _by_id(replayed(settings))
    assert found.keys() == wanted.keys()
    assert [d for d in found if found[d] != wanted[d]] == []


def keep_every_decision(settings: Settings) -> None:
    """Compaction would drop superseded decisions, which the comparison wants to see."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topics(settings).control)
    change = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resource.add_incremental_config(change)
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(20)


def publish_more(settings: Settings, sent: Counter[str], seed: int) -> Counter[str]:
    """A few more events after each fault, continuing every tenant's numbers."""
    producer = Producer(producer_config(settings))
    more = Counter[str]()
    for tenant in sorted(sent):
        number = sent[tenant] + 1
        now = time.time_ns() // 1000
        event = usage(number, tenant_id=tenant, occurred_at=now, started_at=now,
                      event_id=f"{tenant}-{number}")  # fmt: skip
        producer.produce(topics(settings).usage, encode("UsageEvent", event), tenant.encode())
        more[tenant] += 1
    assert producer.flush(60) == 0, f"seed {seed}: the broker took nothing"
    return more
