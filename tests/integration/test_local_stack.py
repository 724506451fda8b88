"""The real broker from its jars: transactions, crashes, freezes, and its life under supervision."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sluice.local.background import start_background, stop_background
from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.local.process import alive, created_at
from sluice.local.stack import ProcessState, StackPaths, read_state, read_status

pytestmark = pytest.mark.integration

SUPERVISOR = """
import sys
from pathlib import Path
from sluice.local.kafka import KafkaNode
from sluice.local.specs import process_specs
from sluice.local.stack import StackPaths, hold_lock
from sluice.local.supervisor import Supervisor
from sluice.settings import Settings

folder, port = Path(sys.argv[1]), int(sys.argv[2])
paths = StackPaths(folder).create()
settings = Settings(kafka_port=port, clickhouse_url="http://127.0.0.1:1", meter_workers=1)
with hold_lock(paths):
    KafkaNode(paths.kafka, port).prepare()
    specs = [spec for spec in process_specs(settings, folder) if spec.name == "kafka"]
    Supervisor(paths, specs).run()
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNode]:
    """A broker for this module."""
    with KafkaNode(tmp_path_factory.mktemp("kafka"), free_port(2)) as node:
        yield node


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[tuple[StackPaths, str]]:
    """A stack that consists of the broker alone, and the broker's address."""
    paths, port = StackPaths(tmp_path / "stack"), free_port(2)
    argv = (sys.executable, "-c", SUPERVISOR, str(paths.root), str(port))
    start_background(paths, argv)
    yield paths, f"127.0.0.1:{port}"
    stop_background(paths)


def _create(bootstrap: str, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(20)


def _transact(bootstrap: str, topic: str, *values: bytes, commit: bool = True) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": "test",
            "message.max.bytes": 16 * 2**20,
            "log_level": 0,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.flush(20)
    if commit:
        producer.commit_transaction(20)
    else:
        producer.abort_transaction(20)


def _read(bootstrap: str, topic: str) -> list[bytes | None]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "test",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    try:
        while (message := consumer.poll(20)) is not None:
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                break
            values.append(message.value())
    finally:
        consumer.close()
    return values


def _broker(paths: StackPaths) -> ProcessState:
    state = read_state(paths)
    assert state is not None
    return state.processes[0]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_transactions(node: KafkaNode) -> None:
    """A committed transaction is read whole, an aborted one not at all."""
    _create(node.bootstrap, "transactions")
    _transact(node.bootstrap, "transactions", b"kept-1", b"kept-2")
    _transact(node.bootstrap, "transactions", b"dropped", commit=False)
    assert _read(node.bootstrap, "transactions") == [b"kept-1", b"kept-2"]


def test_topics_are_never_made_by_accident(node: KafkaNode) -> None:
    """Writing to a topic that does not exist makes none."""
    producer = Producer(
        {"bootstrap.servers": node.bootstrap, "message.timeout.ms": 1000, "log_level": 0}
    )
    producer.produce("accident", b"x")
    producer.flush(20)
    topics = AdminClient({"bootstrap.servers": node.bootstrap}).list_topics(timeout=20).topics
    assert "accident" not in topics


def test_large_values(node: KafkaNode) -> None:
    """A topic may allow values of ten megabytes; the default stays about one."""
    value = os.urandom(10 * 2**20)
    _create(node.bootstrap, "large", **{"max.message.bytes": str(16 * 2**20)})
    _transact(node.bootstrap, "large", value)
    # A commit is answered before its marker is written: a reader may come to the end before it.
    _until(lambda: _read(node.bootstrap, "large") == [value])


def test_pause_and_resume(node: KafkaNode) -> None:
    """A paused broker answers nobody; resumed, it goes on where it stood."""
    pid = node.pid
    node.pause()
    try:
        assert not node.ready()
    finally:
        node.resume()
    _until(node.ready)
    assert node.pid == pid


def test_kill_and_start_keep_the_data(tmp_path: Path) -> None:
    """What was committed before a kill -9 is there after the next start, in the same cluster."""
    with KafkaNode(tmp_path / "kafka", free_port(2)) as node:
        _create(node.bootstrap, "kept")
        _transact(node.bootstrap, "kept", b"1")
        cluster = AdminClient({"bootstrap.servers": node.bootstrap}).list_topics().cluster_id
        node.kill()
        with pytest.raises(KafkaException):
            AdminClient({"bootstrap.servers": node.bootstrap, "log_level": 0}).list_topics(
                timeout=0.5
            )
        node.start()
        _transact(node.bootstrap, "kept", b"2")
        assert _read(node.bootstrap, "kept") == [b"1", b"2"]
        again = AdminClient({"bootstrap.servers": node.bootstrap}).list_topics().cluster_id
        assert again == cluster


def test_an_interrupted_format_is_done_again(tmp_path: Path) -> None:
    """A half-formatted storage folder does not pass for a formatted one."""
    node = KafkaNode(tmp_path / "kafka", free_port(2))
    (node.folder / "data.new").mkdir(parents=True)
    (node.folder / "data.new" / "meta.properties").write_text("version=1\n")
    node.prepare()
    assert "cluster.id=" in (node.folder / "data" / "meta.properties").read_text()
    assert not (node.folder / "data.new").exists()


def test_a_killed_broker_is_restarted_by_its_supervisor(
    supervised: tuple[StackPaths, str],
) -> None:
    """After kill -9 the supervisor brings the broker back with its data, and counts it."""
    paths, bootstrap = supervised
    _create(bootstrap, "kept")
    _transact(bootstrap, "kept", b"1")
    before = _broker(paths)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    _until(lambda: _broker(paths).restarts == 1 and read_status(paths.root).ready)
    after = _broker(paths)
    assert (after.exit_code, after.pid != before.pid) == (-signal.SIGKILL, True)
    # What became of a transaction in the moment of the crash is settled by whoever uses its id
    # next, as the owner of a partition does: nothing committed may be missing then.
    _transact(bootstrap, "kept", b"2")
    _until(lambda: _read(bootstrap, "kept") == [b"1", b"2"])


def test_a_clean_stop_leaves_nothing(supervised: tuple[StackPaths, str]) -> None:
    """After the stop neither supervisor nor broker runs, and the broker had closed its files."""
    paths, _ = supervised
    state = read_state(paths)
    assert state is not None
    pids = [state.supervisor_pid, *(p.pid for p in state.processes if p.pid)]
    assert stop_background(paths)
    assert [pid for pid in pids if created_at(pid) is not None] == []
    assert (paths.kafka / "data" / ".kafka_cleanshutdown").exists()
    assert read_status(paths.root).notes == ()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_supervisor_takes_the_broker_along(supervised: tuple[StackPaths, str]) -> None:
    """A kill -9 of the supervisor ends the broker too, and cleanly."""
    paths, _ = supervised
    state, broker = read_state(paths), _broker(paths)
    assert state is not None
    assert broker.pid is not None
    os.kill(state.supervisor_pid, signal.SIGKILL)
    _until(lambda: not alive(broker.pid or 0, broker.started_at or 0))
    assert (paths.kafka / "data" / ".kafka_cleanshutdown").exists()
    assert not psutil.pid_exists(broker.pid) or created_at(broker.pid) is None
