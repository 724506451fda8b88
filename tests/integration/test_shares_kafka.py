"""Shares of budgets that span tenants on a real broker: none is lost or told twice as much."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from tests.builders import policy, usage
from tests.integration.conftest import until
from tests.integration.test_meter_exact import Meters

from sluice.enforcement.shares import Share, ShareKey, read_share
from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.metering.prices import default_book
from sluice.runtime.publish import publish_policy, publish_price_book
from sluice.settings import Settings
from sluice.wire.codec import decode, encode
from sluice.wire.kafka import ensure_topics, producer_config, topics
from sluice.wire.scan import committed_records

pytestmark = pytest.mark.integration

POLICY = """
policy_id: across
budgets:
  - {budget_id: all, scope: [], unit: requests, limit: 1000000, period: rolling, rolling: 1h,
     rules: [{rule_id: stop, at: 100%, action: block}]}
  - {budget_id: lent, scope: [], unit: requests, limit: 1000000, period: rolling, rolling: 1h,
     hard: true}
"""
TENANTS = 8


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A broker of one's own with prices and the policy in force."""
    with KafkaNode(tmp_path / "kafka", free_port(2)) as node:
        made = Settings(kafka_bootstrap=node.bootstrap, dir=tmp_path)
        ensure_topics(made)
        publish_price_book(made, default_book())
        publish_policy(made, policy(POLICY))
        yield made


def told(settings: Settings) -> dict[ShareKey, Share]:
    """The newest word about each share; versions must grow."""
    found: dict[ShareKey, Share] = {}
    for record in committed_records(settings, topics(settings).leases):
        name, fields = decode(record.value or b"")
        if name == "PartialRow":
            key, share = read_share(fields)
            assert record.key == key.budget_id.encode()
            assert key not in found or share.version > found[key].version
            found[key] = share
    return found


def settled(settings: Settings, budget_id: str) -> int:
    """The sum of a budget's shares."""
    return sum(s.settled for k, s in told(settings).items() if k.budget_id == budget_id)


def send(settings: Settings, first: int, last: int) -> None:
    """Usage of all tenants, numbered from one number to before another."""
    producer, topic = Producer(producer_config(settings)), topics(settings).usage
    for number in range(first, last):
        for tenant in (f"tenant-{n}" for n in range(TENANTS)):
            now = time.time_ns() // 1000
            event = usage(number, tenant_id=tenant, occurred_at=now, started_at=now,
                          event_id=f"{tenant}-{number}")  # fmt: skip
            producer.produce(topic, encode("UsageEvent", event), tenant.encode())
    assert producer.flush(30) == 0


def ask(settings: Settings) -> None:
    """Ask every partition, as the rollup does, what a process that is over has used."""
    fields: dict[str, Any] = {
        "holder": "gw", "holder_slot": "gw", "source_epoch": "e1", "tenant_id": "",
        "policy_id": "across", "budget_ids": ["lent"], "scope": "", "period": "rolling",
        "unit": "requests", "wants": 0, "in_flight_reserved": 0, "interim_spend": 0,
        "last_seq": 1, "closing": True,
    }  # fmt: skip
    producer = Producer(producer_config(settings))
    for number in range(settings.partitions):
        value = encode("HolderReport", fields)
        producer.produce(topics(settings).usage, value, b"", partition=number)
    assert producer.flush(30) == 0


def test_shares_add_up_whatever_becomes_of_the_meter(settings: Settings, tmp_path: Path) -> None:
    """A meter is killed while it counts; resends come; then every partition says that is all."""
    meters = Meters(settings, tmp_path)
    try:
        meters.start("0")
        send(settings, 1, 51)
        until(lambda: settled(settings, "all") == 50 * TENANTS, what="the first shares")
        send(settings, 40, 101)
        meters.kill("0")
        send(settings, 101, 121)
        until(lambda: settled(settings, "all") == 120 * TENANTS, what="the shares after the kill")
        ask(settings)
        until(lambda: sum(s.closing for s in told(settings).values()) == settings.partitions,
              what="the answers")  # fmt: skip
    finally:
        meters.stop()
    assert settled(settings, "lent") == 120 * TENANTS
    shares = told(settings)
    assert {k.source for k, s in shares.items() if s.closing} == {"gw"}
    assert {k.partition for k in shares} == set(range(settings.partitions))
