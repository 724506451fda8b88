"""The emitter on a real broker: processes and brokers are killed, nothing taken is lost."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from tests.builders import usage

from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.wire.codec import decode
from sluice.wire.emitter import Position, UsageEmitter
from sluice.wire.topics import leases_beside
from sluice.wire.wal_frames import Damage, frames

pytestmark = pytest.mark.integration

PARTITIONS = 3
TENANTS = [f"tenant-{number}" for number in range(7)]

EMITTING_CHILD = """
import os, sys
from pathlib import Path
from sluice.wire.emitter import UsageEmitter
from tests.builders import usage

bootstrap, topic, wal_dir, ledger = sys.argv[1:]
emitter = UsageEmitter({"bootstrap.servers": bootstrap}, topic, "gw", Path(wal_dir))
told = os.open(ledger, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
number = 0
while True:
    tenant = f"tenant-{number % 7}"
    event = {k: v for k, v in usage(tenant_id=tenant).items() if k != "event_id"}
    position = emitter.emit(event)
    os.write(told, f"{position.event_id} {position.source_epoch} {position.source_seq}\\n".encode())
    number += 1
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNode]:
    """A broker for this module."""
    with KafkaNode(tmp_path_factory.mktemp("kafka"), free_port(2)) as node:
        yield node


@pytest.fixture
def topic(node: KafkaNode) -> str:
    """A topic of one's own."""
    return new_topic(node)


def new_topic(node: KafkaNode, **config: str) -> str:
    """Create a topic."""
    name = f"usage-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    admin.create_topics([NewTopic(name, PARTITIONS, 1, config=config)])[name].result()
    return name


def emitter(node: KafkaNode, topic: str, wal_dir: Path, **over: Any) -> UsageEmitter:
    """An emitter as a gateway has it, but quick to notice what changed at the broker."""
    config = {"bootstrap.servers": node.bootstrap, "reconnect.backoff.max.ms": 500,
              "topic.metadata.propagation.max.ms": 500}  # fmt: skip
    return UsageEmitter(config, topic, "gw", wal_dir, **over)


def plain(number: int, **over: Any) -> dict[str, Any]:
    """An event of one of the tenants."""
    tenant = TENANTS[number % len(TENANTS)]
    return {k: v for k, v in usage(tenant_id=tenant).items() if k != "event_id"} | over


def on_topic(node: KafkaNode, topic: str) -> list[dict[str, Any]]:
    """Every event on a topic, each partition in its order; the key of each is its tenant."""
    consumer = Consumer({"bootstrap.servers": node.bootstrap, "group.id": "reader"})
    events = []
    for partition in range(PARTITIONS):
        place = TopicPartition(topic, partition, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=20)
        consumer.assign([place])
        left = end
        while left:
            batch = consumer.consume(left, timeout=1)
            left -= len(batch)
            for message in batch:
                event = decode(message.value() or b"")[1]
                assert message.key() == event["tenant_id"].encode()
                events.append(event)
    consumer.close()
    return events


def assert_complete(events: list[dict[str, Any]], taken: set[Position]) -> None:
    """All of `taken` is there; under each key the numbers first come in order, without holes."""
    found = {Position(e["event_id"], e["source_epoch"], e["source_seq"]) for e in events}
    assert taken <= found, f"{len(taken - found)} of {len(taken)} are lost"
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        seen = numbers[event["source_epoch"], event["tenant_id"]]
        if event["source_seq"] > len(seen):
            seen.append(event["source_seq"])
    assert all(seen == list(range(1, len(seen) + 1)) for seen in numbers.values())
    assert sum(map(len, numbers.values())) == len(found)


def until(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    """Wait for something that must become true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    """Whole lines of a file that another process writes."""
    return path.read_text().splitlines() if path.exists() else []


class Emitting:
    """A thread that emits without pause and keeps what was taken."""

    def __init__(self, emitter: UsageEmitter) -> None:
        self.taken: set[Position] = set()
        self._emitter = emitter
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.taken.add(self._emitter.emit(plain(len(self.taken))))
            time.sleep(0.0002)

    def more(self, count: int) -> None:
        """Wait for this many more events."""
        goal = len(self.taken) + count
        until(lambda: len(self.taken) >= goal)

    def stop(self) -> set[Position]:
        """End it; returns what was taken."""
        self._stop.set()
        self._thread.join()
        return self.taken


def test_a_killed_gateway_loses_nothing(node: KafkaNode, topic: str, tmp_path: Path) -> None:
    """After kill -9 in mid-stream, again and again, a successor brings out all that was taken."""
    ledger, wal_dir = tmp_path / "ledger", tmp_path / "wal"
    argv = [sys.executable, "-c", EMITTING_CHILD, node.bootstrap, topic, str(wal_dir), str(ledger)]
    for run in range(1, 4):
        child = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
        goal = len(lines(ledger)) + 1500 * run
        until(lambda goal=goal: len(lines(ledger)) >= goal)  # type: ignore[misc]
        child.send_signal(signal.SIGKILL)
        child.wait()
    taken = {Position(i, e, int(s)) for i, e, s in (line.split() for line in lines(ledger))}
    with emitter(node, topic, wal_dir) as successor:
        assert successor.flush(30) == 0
        assert successor.stats().damage.stretches == 0
    events = on_topic(node, topic)
    assert_complete(events, taken)
    assert len({event["source_epoch"] for event in events}) == 3
    assert len({event["event_id"] for event in events}) - len(taken) <= 3
    assert list((wal_dir / "gw").iterdir()) == []


def test_a_killed_broker_loses_nothing(node: KafkaNode, topic: str, tmp_path: Path) -> None:
    """Events go on being taken while the broker is dead and are all there afterwards, in order."""
    with emitter(node, topic, tmp_path) as out:
        emitting = Emitting(out)
        emitting.more(500)
        node.kill()
        emitting.more(1000)
        assert out.stats().pending >= 1000
        node.start()
        emitting.more(500)
        taken = emitting.stop()
        assert out.flush(60) == 0
    assert_complete(on_topic(node, topic), taken)


def test_a_frozen_broker_holds_nobody_up(node: KafkaNode, topic: str, tmp_path: Path) -> None:
    """While nothing answers, the log takes more than librdkafka's queue holds."""
    with emitter(node, topic, tmp_path) as out:
        out.emit(plain(0))
        assert out.flush(20) == 0
        node.pause()
        try:
            taken = {out.emit(plain(number)) for number in range(25_000)}
            assert out.stats().unsent_bytes > 0
        finally:
            node.resume()
        assert out.flush(60) == 0
    assert_complete(on_topic(node, topic), taken)


def test_a_large_record_is_set_aside_alone(node: KafkaNode, tmp_path: Path) -> None:
    """A record above the broker's limit costs only itself, whatever batch it was in."""
    topic = new_topic(node, **{"max.message.bytes": "4000"})
    large = [{"key": f"k{n}", "value": secrets.token_hex(250)} for n in range(16)]
    with emitter(node, topic, tmp_path) as out:
        taken = [
            out.emit(plain(number, attributes=large if number in (20, 21, 70) else []))
            for number in range(100)
        ]
        assert out.flush(60) == 0
        stats = out.stats()
    refused = {taken[number] for number in (20, 21, 70)}
    assert (stats.refused, stats.acknowledged) == (3, 97)
    assert stats.delivery_errors["MSG_SIZE_TOO_LARGE"] >= 3
    events = on_topic(node, topic)
    found = [Position(e["event_id"], e["source_epoch"], e["source_seq"]) for e in events]
    assert set(found) == set(taken) - refused
    for tenant in TENANTS:
        numbers = [e["source_seq"] for e in events if e["tenant_id"] == tenant]
        assert list(dict.fromkeys(numbers)) == sorted(set(numbers))
    kept = frames((tmp_path / "gw" / "refused.wal").read_bytes(), Damage())
    assert {decode(frame.value)[1]["event_id"] for frame in kept} == {p.event_id for p in refused}


def test_events_wait_for_a_topic_that_comes_late(node: KafkaNode, tmp_path: Path) -> None:
    """Emitting before the topics exist loses nothing."""
    name = f"late-{secrets.token_hex(4)}"
    with emitter(node, name, tmp_path) as out:
        taken = {out.emit(plain(number)) for number in range(50)}
        until(lambda: out.stats().last_error is not None)
        admin = AdminClient({"bootstrap.servers": node.bootstrap})
        admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result()
        assert out.flush(60) == 0
    assert_complete(on_topic(node, name), taken)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_workers_emit_beside_their_parent(
    node: KafkaNode, topic: str, tmp_path: Path
) -> None:
    """Workers forked in mid-stream have epochs of their own; all of everybody's is delivered."""
    with emitter(node, topic, tmp_path / "wal") as out:
        taken = {out.emit(plain(number)) for number in range(500)}
        children = []
        for name in ("first", "second"):
            child = os.fork()
            if not child:
                work(out, tmp_path / name)
            children.append(child)
        taken |= {out.emit(plain(number)) for number in range(500)}
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        for name in ("first", "second"):
            taken |= {Position(*place) for place in json.loads((tmp_path / name).read_text())}
        assert len(taken) == 1600
        assert out.flush(30) == 0
    events = on_topic(node, topic)
    assert_complete(events, taken)
    assert len({event["source_epoch"] for event in events}) == 3
    assert len(events) == 1600


def work(out: UsageEmitter, told: Path) -> None:
    """A forked worker: emits, tells what was taken, closes its emitter and ends."""
    status = 1
    try:
        told.write_text(json.dumps([out.emit(plain(number)) for number in range(300)]))
        status = out.close(30)
    finally:
        os._exit(status)


def test_a_leases_topic_that_is_missing_holds_up_no_usage(
    node: KafkaNode, topic: str, tmp_path: Path
) -> None:
    """Reports for it are dropped while usage flows in order; once it is there, they arrive."""
    report = {"holder_slot": "slot", "tenant_id": "", "budget_ids": ["b"], "period": "d",
              "policy_id": "p", "scope": "", "wants": 5, "in_flight_reserved": 0,
              "interim_spend": 0}  # fmt: skip
    told: list[str] = []
    with emitter(node, topic, tmp_path, on_error=lambda error: told.append(error.code)) as gateway:
        for number in range(300):
            gateway.emit(plain(number))
            if number % 100 == 0:
                gateway.report(report)
        assert gateway.flush(20) == 0
        stats = gateway.stats()
        assert (stats.acknowledged, stats.refused, stats.resent) == (300, 3, 0)
        assert len(told) == 1, told
        leases = leases_beside(topic)
        admin = AdminClient({"bootstrap.servers": node.bootstrap})
        admin.create_topics([NewTopic(leases, 1, 1)])[leases].result()
        until(lambda: _arrives(gateway, report), 30)
    numbers = defaultdict(list)
    for event in on_topic(node, topic):
        numbers[event["tenant_id"]].append(event["source_seq"])
    assert sum(map(len, numbers.values())) == 300
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in numbers.values())


def _arrives(gateway: UsageEmitter, report: dict[str, Any]) -> bool:
    before = gateway.stats().acknowledged
    gateway.report(report)
    return gateway.flush(10) == 0 and gateway.stats().acknowledged > before
