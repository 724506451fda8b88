"""Admission points on a real broker: snapshot, transactions, crashes, forks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from tests.unit.admission.messages import NOW, Sent, decision, heartbeat

from sluice.admission.point import AdmissionPoint, ColdStart
from sluice.admission.subscriber import ControlSubscriber, follow
from sluice.admission.verdict import AdmissionRequest, Verdict
from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.settings import Settings
from sluice.wire.kafka import consumer_config, topics

pytestmark = pytest.mark.integration

NOT_YET = ColdStart(0, "open")
FOREVER = {"expires_at": 2 * NOW}
_numbers = itertools.count()


@dataclass
class Control:
    """A control topic of its own on the broker, and a transactional producer for it.

    It has two partitions of usage, and the last one for budgets that span tenants.
    """

    node: KafkaNode
    partitions: int = 3
    prefix: str = field(default_factory=lambda: f"t{os.getpid()}-{next(_numbers)}.")

    @property
    def settings(self) -> Settings:
        return Settings(kafka_bootstrap=self.node.bootstrap, topic_prefix=self.prefix)

    @property
    def topic(self) -> str:
        return topics(self.settings).control

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.node.bootstrap, "log_level": 2})

    def create(self) -> None:
        config = {"cleanup.policy": "compact"}
        topic = NewTopic(self.topic, self.partitions, 1, config=config)
        admin = self.admin  # a future fails when its client is gone
        admin.create_topics([topic])[self.topic].result(20)

    def delete(self) -> None:
        admin = self.admin
        admin.delete_topics([self.topic])[self.topic].result(20)

    def producer(self) -> Producer:
        producer = Producer({
            "bootstrap.servers": self.node.bootstrap, "transactional.id": f"{self.prefix}tx",
            "log_level": 2,
        })  # fmt: skip
        producer.init_transactions(30)
        return producer

    def publish(self, tenant: str, *, partition: int = 0, sequence: int = 1,
                lift: bool = False) -> None:  # fmt: skip
        """Publish one block (or lift it) in a transaction of its own."""
        producer = self.producer()
        producer.begin_transaction()
        value = None if lift else block(tenant, sequence)
        producer.produce(self.topic, value, key(tenant), partition)
        producer.commit_transaction(30)


def key(tenant: str) -> bytes:
    """Control key of the decision about a tenant."""
    return f"decision|p|r|enforce|tenant_id={tenant}|".encode()


def block(tenant: str, sequence: int = 1) -> bytes:
    """A block of a tenant, issued now."""
    issued_at = time.time_ns() // 1000
    return decision(scope={"tenant_id": tenant}, sequence=sequence, decision_id=tenant,
                    issued_at=issued_at, effective_at=issued_at, **FOREVER)  # fmt: skip


def blocked(point: AdmissionPoint, tenant: str) -> bool:
    """Whether a request of the tenant is refused by its own decision."""
    verdict: Verdict = point.admit(AdmissionRequest(tenant))
    return not verdict.allowed and verdict.decision_id == tenant


def until(holds: Callable[[], bool], what: str, timeout_s: float = 40.0) -> None:
    """Wait for something that must become true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNode]:
    """A broker for the tests of this file."""
    with KafkaNode(tmp_path_factory.mktemp("kafka"), free_port(2)) as running:
        yield running


@pytest.fixture
def control(node: KafkaNode) -> Control:
    """An empty control topic."""
    made = Control(node)
    made.create()
    return made


def test_only_committed_decisions_are_obeyed(control: Control) -> None:
    """A decision counts once its transaction commits; an aborted one never does."""
    with follow(control.settings, "gw", cold_start=NOT_YET) as point:
        assert point.wait_ready(30)
        producer = control.producer()
        producer.begin_transaction()
        producer.produce(control.topic, block("aborted"), key("aborted"), 0)
        producer.flush(30)
        producer.abort_transaction(30)
        producer.begin_transaction()
        producer.produce(control.topic, block("later"), key("later"), 0)
        producer.flush(30)
        time.sleep(0.5)
        assert not blocked(point, "later")
        producer.commit_transaction(30)
        until(lambda: blocked(point, "later"), "the committed decision is obeyed")
        assert not blocked(point, "aborted")
        control.publish("later", lift=True)
        until(lambda: not blocked(point, "later"), "the tombstone is obeyed")


def test_live_decisions_are_reported_with_their_lag(control: Control) -> None:
    """The decision of the snapshot is not reported; the live one is, and the refusals are."""
    control.publish("old")
    sent = Sent()
    with follow(control.settings, "gw-7", sent, cold_start=NOT_YET) as point:
        assert point.wait_ready(30)
        assert blocked(point, "old")
        control.publish("new", partition=1)
        until(lambda: blocked(point, "new"), "the live decision is obeyed")
    notices = [event for event in sent if event["outcome"] == "ok"]
    assert [event["decision_id"] for event in notices] == ["new"]
    (lag_us,) = (u["value"] for u in notices[0]["units"] if u["key"] == "applied_lag_us")
    assert 0 < lag_us < 30_000_000
    assert {e["decision_id"] for e in sent if e["outcome"] == "rejected"} == {"old", "new"}
    assert {event["source"] for event in sent} == {"gw-7"}


def test_a_snapshot_of_ten_thousand_keys(control: Control) -> None:
    """Ready means complete: every decision that stands is obeyed, every lifted one is not."""
    producer = control.producer()
    producer.begin_transaction()
    for number in range(10_000):
        tenant = f"t{number}"
        producer.produce(control.topic, block(tenant), key(tenant), number % 2)
        producer.poll(0)
    producer.commit_transaction(60)
    producer.begin_transaction()
    for number in range(0, 10_000, 100):
        producer.produce(control.topic, None, key(f"t{number}"), number % 2)
    producer.commit_transaction(60)
    with follow(control.settings, "gw", cold_start=ColdStart(60_000, "closed")) as point:
        free = [n for n in range(10_000) if not blocked(point, f"t{n}")]
    assert free == list(range(0, 10_000, 100))


def test_an_open_transaction_does_not_hold_up_the_snapshot(control: Control) -> None:
    """What is committed is read while another transaction on the partition is still open."""
    control.publish("done")
    producer = control.producer()
    producer.begin_transaction()
    producer.produce(control.topic, block("open"), key("open"), 0)
    producer.flush(30)
    with follow(control.settings, "gw", cold_start=NOT_YET) as point:
        assert point.wait_ready(30)
        assert blocked(point, "done")
        assert not blocked(point, "open")
        producer.abort_transaction(30)


def test_staleness_follows_heartbeats(control: Control) -> None:
    """A heartbeat on one partition leaves the silence of the other one visible."""
    with follow(control.settings, "gw", cold_start=NOT_YET) as point:
        assert point.wait_ready(30)
        time.sleep(0.3)
        producer = control.producer()
        for partitions in ((0,), (0, 1)):
            producer.begin_transaction()
            sent_at = time.time_ns() // 1000
            for number in partitions:
                value = heartbeat(number, issued_at=sent_at)
                producer.produce(control.topic, value, b"heartbeat|%d" % number, number)
            producer.commit_transaction(30)
            until(lambda at=sent_at: point.snapshot()["heard_at"][0] == at, "the heartbeat")
            heard = {n: at for n, at in point.snapshot()["heard_at"].items() if n < 2}
            assert (heard[1] == sent_at) is (1 in partitions)
            assert point.staleness(sent_at + 9) == max(0, sent_at + 9 - min(heard.values()))


def test_it_survives_a_broker_that_is_killed(tmp_path: Path) -> None:
    """While the broker is away the last word counts; back again, new decisions arrive."""
    with KafkaNode(tmp_path / "kafka", free_port(2)) as node:
        control = Control(node)
        control.create()
        control.publish("before")
        with follow(control.settings, "gw", cold_start=NOT_YET) as point:
            assert point.wait_ready(30)
            adopted = point._state
            node.kill()
            time.sleep(2)
            assert blocked(point, "before")
            node.start()
            control.publish("after", partition=1)
            until(lambda: blocked(point, "after"), "the decision after the crash")
            assert blocked(point, "before")
            assert point._state is adopted
            node.kill()
            began = time.monotonic()
        assert time.monotonic() - began < 15


def test_a_point_started_without_a_broker_becomes_ready(tmp_path: Path) -> None:
    """Cold it answers as told; once broker and topic exist, it reads and is ready."""
    node = KafkaNode(tmp_path / "kafka", free_port(2))
    control = Control(node)
    with follow(control.settings, "gw", cold_start=ColdStart(100, "closed")) as point:
        assert point.admit(AdmissionRequest("any")).reason_code == "CONTROL_STALE"
        with node:
            time.sleep(1)
            assert not point.ready
            control.create()
            control.publish("first")
            until(lambda: blocked(point, "first"), "the first decision")
            assert point.admit(AdmissionRequest("any")).allowed


@pytest.fixture
def checking(control: Control) -> Iterator[AdmissionPoint]:
    """A ready point whose subscriber looks at the topic itself all the time."""
    control.publish("there", sequence=10)
    point = AdmissionPoint(None, cold_start=NOT_YET)
    config = consumer_config(control.settings)
    subscriber = ControlSubscriber(config, control.topic, point, topic_check_s=0.2)
    assert point.wait_ready(30)
    yield point
    subscriber.close()


def test_added_partitions_are_read(control: Control, checking: AdmissionPoint) -> None:
    """A partition added later is found and followed, without reading the others again."""
    adopted = checking._state
    admin = control.admin
    admin.create_partitions([NewPartitions(control.topic, 4)])[control.topic].result(20)
    control.publish("fourth", partition=3)
    until(lambda: blocked(checking, "fourth"), "the decision on the new partition")
    assert set(checking.snapshot()["heard_at"]) == {0, 1, 2, 3}
    assert checking._state is adopted


@pytest.mark.parametrize("decisions", [1, 50])
def test_a_topic_made_anew_is_read_anew(
    control: Control, checking: AdmissionPoint, decisions: int
) -> None:
    """Decisions of a deleted topic go with it; the new topic's count, however long it has grown."""
    assert blocked(checking, "there")
    control.delete()
    time.sleep(1)
    control.create()
    producer = control.producer()
    producer.begin_transaction()
    for number in range(decisions):
        producer.produce(control.topic, block(f"new{number}"), key(f"new{number}"), 0)
    producer.commit_transaction(30)
    until(lambda: blocked(checking, "new0"), "the new topic's first decision")
    assert not blocked(checking, "there")


_FORKING = """
import os, sys, time
from sluice.admission.point import ColdStart
from sluice.admission.subscriber import follow
from sluice.admission.verdict import AdmissionRequest
from sluice.settings import Settings

settings = Settings(kafka_bootstrap=sys.argv[1], topic_prefix=sys.argv[2])

def refused(point, tenant):
    deadline = time.monotonic() + 30
    while point.admit(AdmissionRequest(tenant)).allowed:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True

with follow(settings, "gw", cold_start=ColdStart(30_000, "closed")) as point:
    held = refused(point, "before")
    child = os.fork()
    held = held and refused(point, "before")
    print("forked", flush=True)
    held = held and refused(point, "after")
if child:
    _, status = os.waitpid(child, 0)
    held = held and status == 0
sys.exit(0 if held else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_follows_by_itself(control: Control) -> None:
    """Parent and child obey a decision published after the fork, and both end cleanly."""
    control.publish("before")
    argv = [sys.executable, "-c", _FORKING, control.node.bootstrap, control.prefix]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert [program.stdout.readline() for _ in range(2)] == ["forked\n"] * 2
        control.publish("after")
        assert program.wait(60) == 0
