"""Leases over a real broker: a holder asks and spends, is killed, and its successor closes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import NewTopic
from tests.integration.test_admission_kafka import Control, until
from tests.unit.admission.messages import budget_rule, rule_key

from sluice.admission.point import ColdStart
from sluice.admission.subscriber import follow
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.wire.codec import decode, encode
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import consumer_config, producer_config, topics

pytestmark = pytest.mark.integration

LIMIT = 100
CHAT = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10)

_GATEWAY = """
import sys, time
from pathlib import Path
from sluice.admission.point import ColdStart
from sluice.admission.subscriber import follow
from sluice.admission.verdict import AdmissionRequest
from sluice.settings import Settings
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import producer_config, topics

settings = Settings(kafka_bootstrap=sys.argv[1], topic_prefix=sys.argv[2])
chat = AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10)
with UsageEmitter(producer_config(settings), topics(settings).usage, "gw", Path(sys.argv[3]),
                  wal_max_bytes=2**20) as emitter:
    with follow(settings, "gw", emitter, cold_start=ColdStart(30_000, "closed")) as point:
        for _ in range(3):
            point.reserve(chat).commit(cost_pusd=7)
        running = point.reserve(chat)
        print(emitter.source_epoch, flush=True)
        time.sleep(600)
"""


class Meter:
    """Stands for the meter: reads usage and reports in their order, publishes grants."""

    def __init__(self, control: Control) -> None:
        self.records: list[dict[str, Any]] = []
        self._control = control
        self._producer = control.producer()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def of(self, name: str) -> list[dict[str, Any]]:
        """Records that have a field."""
        return [record for record in self.records if name in record]

    def _run(self) -> None:
        settings = self._control.settings
        consumer = Consumer(consumer_config(settings))
        consumer.subscribe([topics(settings).usage])
        while not self._stop.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                record = decode(message.value() or b"")[1]
                self.records.append(record)
                if "holder" in record:
                    self._answer(record, len(self.records))
        consumer.close()

    def _answer(self, report: dict[str, Any], sequence: int) -> None:
        epoch, now = report["source_epoch"], time.time_ns() // 1000
        spent = {e["event_id"]: (e["source_epoch"], e["cost_pusd"] or 0)
                 for e in self.of("cost_pusd")}  # fmt: skip
        others = sum(cost for source_epoch, cost in spent.values() if source_epoch != epoch)
        own = sum(cost for source_epoch, cost in spent.values() if source_epoch == epoch)
        granted = min(LIMIT - others, own + report["in_flight_reserved"] + report["wants"])
        key = f"lease|p|b|{report['scope']}|{report['period']}|gw|{epoch}".encode()
        value = encode("LeaseGrant", {
            "lease_id": epoch, "policy_id": "p", "budget_id": "b", "scope": {}, "holder": "gw",
            "period": report["period"], "granted_total": granted,
            "unit": "pusd", "refresh_after_ms": 5000, "issued_at": now, "epoch": 1,
            "expires_at": now + 120_000_000, "sequence": sequence, "source_epoch": epoch,
        })  # fmt: skip
        self._producer.begin_transaction()
        self._producer.produce(self._control.topic, None if report["closing"] else value, key, 0)
        self._producer.commit_transaction(30)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    """A broker with usage and control topics, and a hard budget in force."""
    with KafkaNode(tmp_path / "kafka", free_port(2)) as node:
        made = Control(node)
        made.create()
        admin, usage = made.admin, topics(made.settings).usage
        admin.create_topics([NewTopic(usage, 1, 1)])[usage].result(20)
        producer = made.producer()
        producer.begin_transaction()
        rule = budget_rule(limit=LIMIT, lease_wait_ms=5000)
        producer.produce(made.topic, rule, rule_key(), 0)
        producer.commit_transaction(30)
        yield made


def test_a_killed_holder_is_closed_by_its_successor(control: Control, tmp_path: Path) -> None:
    """Its usage arrives once, its lease is closed with its last number, and the limit holds."""
    meter, wal = Meter(control), tmp_path / "wal"
    settings = control.settings
    argv = [sys.executable, "-c", _GATEWAY, control.node.bootstrap, control.prefix, str(wal)]
    try:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as gateway:
            assert gateway.stdout is not None
            old = gateway.stdout.readline().strip()
            os.kill(gateway.pid, signal.SIGKILL)
        usage = topics(settings).usage
        with (
            UsageEmitter(producer_config(settings), usage, "gw", wal) as emitter,
            follow(settings, "gw", emitter, cold_start=ColdStart(30_000, "closed")) as point,
        ):
            until(lambda: any(r["closing"] for r in meter.of("holder")), "the closing report")
            begun = time.monotonic()
            point.reserve(CHAT).commit(cost_pusd=9)
            print(f"first lease: {(time.monotonic() - begun) * 1000:.0f} ms")
            admitted = _until_refused(point)
        until(lambda: meter.of("holder")[-1]["closing"], "the successor's own closing report")
    finally:
        meter.close()
    closing = [r for r in meter.of("holder") if r["source_epoch"] == old and r["closing"]]
    assert [(r["last_seq"], r["in_flight_reserved"]) for r in closing] == [(3, 0)]
    spent = {e["event_id"]: e["cost_pusd"] for e in meter.of("event_id") if e["cost_pusd"]}
    assert sorted(spent.values()) == sorted([7] * 3 + [9] + [10] * admitted)
    assert sum(spent.values()) <= LIMIT
    assert admitted == 7, "everything but less than one request is spent"


def _until_refused(point: Any) -> int:
    """How many requests are let in before the budget has no room."""
    admitted = 0
    while True:
        try:
            point.reserve(CHAT).commit(cost_pusd=10)
        except Refused as refused:
            assert refused.verdict.reason_code == "LEASE_EXHAUSTED"
            return admitted
        admitted += 1
