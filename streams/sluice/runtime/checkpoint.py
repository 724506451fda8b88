"""One Kafka transaction per partition checkpoint: state, outputs and input position together.

Every owned input partition has one transactional producer. A checkpoint writes changed state rows,
tombstones, outputs and a marker {next offset, epoch, serial} and commits them as one. A new owner
first calls `init_transactions()`: the broker fences the previous owner and aborts what it had open.
It then reads the changelog partition (read_committed), raises the epoch and goes on at the marker.

Order of one commit: collect in memory → begin → produce rows, outputs, marker → commit. The
transaction is open for milliseconds only, because an open one holds up every read_committed reader.
Consumer-group offsets decide nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from sluice.errors import ConfigError, SluiceError
from sluice.runtime.outputs import OutRecord
from sluice.settings import Settings
from sluice.wire.kafka import consumer_config, producer_config

log = logging.getLogger(__name__)

LAYOUT_VERSION = 4
MARKER_KEY = b"m"
_TRANSACTION_TIMEOUT_MS = 5000
_CALL_S = 10.0
# A commit whose answer was lost in a broker crash may never get one; a new producer settles it.
_COMMIT_S = 5.0
_RETRY_S = 0.25
# Where the newest marker is looked for first: every transaction ends with one.
_TAIL_RECORDS = 20_000
_BATCH_ROWS = 4_000
_READ_AHEAD_KB = 8_192
# Partitions that are read at the same time: more would not be faster, but take more memory.
_restoring = threading.BoundedSemaphore(2)


# The same batch, or the same principal, would be refused again and again.
_REFUSED_FOR_EVER = frozenset({
    KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
})  # fmt: skip


class Fenced(SluiceError):
    """Another process owns the partition now; this one must end without writing anything."""


class Marker(msgspec.Struct, array_like=True, frozen=True):
    """What a checkpoint covers: input below `next_offset`; commit number `serial` of `epoch`."""

    next_offset: int
    epoch: int
    serial: int
    layout: int = LAYOUT_VERSION


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Marker).decode


class PartitionLog:
    """The committed state of one input partition and the producer that guards it.

    Methods block; call them from a thread. Only one call at a time.
    """

    def __init__(
        self, settings: Settings, app: str, source: tuple[str, int], changelog: str
    ) -> None:
        self._settings = settings
        self._topic, self._partition = source
        self._changelog = changelog
        self._transactional_id = f"{settings.topic_prefix}{app}-{self._topic}-{self._partition}"
        self._producer: Producer | None = None
        self.marker = Marker(0, 0, 0)
        self.stopping = threading.Event()

    def restore(self, load: Callable[[dict[bytes, bytes]], None]) -> int | None:
        """Fence the last owner and feed every committed state row to `load`, in order.

        Rows come in batches, in each the newest value of a key; empty = removed. Returns the input
        position, or None where nothing was ever committed. Raises ConfigError where another layout
        was written; nothing is loaded then.
        """
        self._open_producer()
        begun, last = time.monotonic(), self._last_marker()
        self._check_layout(last)
        batches = _Batches(load)
        with _restoring, _collector_at_rest():
            last = self._read(0, batches.add) if last is not None else None
            batches.flush()
        self.marker = (
            Marker(0, 1, 0) if last is None else Marker(last.next_offset, last.epoch + 1, 0)
        )
        log.info(
            "partition %d restored: %d rows in %.2f s, epoch %d",
            self._partition, batches.rows, time.monotonic() - begun, self.marker.epoch,
        )  # fmt: skip
        return None if last is None else last.next_offset

    def _check_layout(self, last: Marker | None) -> None:
        # Before anything is loaded: rows of another layout could not even be read.
        if last is not None and last.layout != LAYOUT_VERSION:
            raise ConfigError(
                f"{self._changelog}[{self._partition}] holds state of layout {last.layout}, this "
                f"version reads {LAYOUT_VERSION}; run the version that wrote it, or reset the "
                "topics"
            )

    def commit(self, records: Iterable[OutRecord], next_offset: int) -> None:
        """Write `records` and the marker as one transaction; return when it is committed.

        Tries until the broker answers; raises Fenced when another owner took over, in which case
        nothing of it became visible.
        """
        batch = list(records)
        marker = Marker(next_offset, self.marker.epoch, self.marker.serial + 1)
        while not self._try_commit(batch, marker):
            if self.stopping.wait(_RETRY_S):
                raise Fenced(f"stopped while the broker was away; {self._transactional_id}")
        self.marker = marker

    def close(self) -> None:
        """Forget the producer; a transaction in flight is left to the next owner."""
        self.stopping.set()
        self._producer = None

    def _try_commit(self, batch: list[OutRecord], marker: Marker) -> bool:
        try:
            if self._producer is None:
                # Asked before a new producer would fence somebody who took over meanwhile, and
                # again when nothing is in flight any more.
                self._already_committed(marker)
                self._open_producer()
                if self._already_committed(marker):
                    return True
            self._transact(self._producer, batch, marker)  # type: ignore[arg-type]
        except KafkaException as error:
            self._after_failure(error.args[0])
            return False
        return True

    def _transact(self, producer: Producer, batch: list[OutRecord], marker: Marker) -> None:
        producer.begin_transaction()
        for record in batch:
            _produce(producer, record)
        _produce(producer, OutRecord(self._changelog, self._partition, MARKER_KEY, _encode(marker)))
        deadline = time.monotonic() + _COMMIT_S
        while True:
            try:
                producer.commit_transaction(_COMMIT_S)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise
            else:
                return

    def _after_failure(self, error: KafkaError) -> None:
        """Abort where the broker says so; otherwise start over with a new producer.

        A new producer of the same id settles an unknown outcome: it finishes or aborts the old
        transaction, and the marker then tells which.
        """
        if error.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED,
                            KafkaError.INVALID_PRODUCER_EPOCH):  # fmt: skip
            raise Fenced(f"{self._transactional_id}: {error.str()}")
        if error.code() in _REFUSED_FOR_EVER:
            raise SluiceError(f"partition {self._partition} cannot be committed: {error.str()}")
        log.warning("checkpoint of partition %d failed: %s; retrying", self._partition, error.str())
        self._producer = None

    def _open_producer(self) -> None:
        producer = Producer(
            producer_config(
                self._settings,
                **{
                    "transactional.id": self._transactional_id,
                    "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
                    "queue.buffering.max.messages": 2_000_000,
                    "queue.buffering.max.kbytes": 1_048_576,
                    "message.max.bytes": 17 * 2**20,
                    "batch.size": 2**18,
                    "log_level": 0,
                },
            )
        )
        while True:
            try:
                producer.init_transactions(_CALL_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                if self.stopping.wait(_RETRY_S):
                    raise Fenced("stopped while the broker was away") from error
            else:
                self._producer = producer
                return

    def _already_committed(self, marker: Marker) -> bool:
        """Whether the commit with the unknown outcome is there; Fenced if somebody else wrote."""
        last = self._last_marker()
        if last == marker:
            return True
        before = last is None or last.epoch < marker.epoch
        if (before and marker.serial == 1) or last == self.marker:
            return False
        raise Fenced(f"{self._transactional_id}: the changelog holds {last}, not ours")

    def _last_marker(self) -> Marker | None:
        low, high = first_and_end(self._settings, self._changelog, self._partition)
        start = max(low, high - _TAIL_RECORDS)
        found = self._read(start, _ignore)
        return self._read(low, _ignore) if found is None and start > low else found

    def _read(self, start: int, keep: Callable[[bytes, bytes], None]) -> Marker | None:
        consumer = Consumer(
            consumer_config(
                self._settings,
                **{
                    "group.id": f"{self._transactional_id}-restore",
                    "enable.partition.eof": True,
                    "queued.max.messages.kbytes": _READ_AHEAD_KB,
                },
            )
        )
        try:
            consumer.assign([TopicPartition(self._changelog, self._partition, start)])
            return _read_to_end(consumer, keep, self.stopping)
        finally:
            consumer.close()


def first_and_end(settings: Settings, topic: str, partition: int) -> tuple[int, int]:
    """Offsets of a partition's first record and of its end; KafkaException without an answer."""
    consumer = Consumer(consumer_config(settings))
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
    finally:
        consumer.close()
    return int(low), int(high)


def give_back_memory() -> None:
    """Let the system have what reading the log took; only glibc keeps it otherwise."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


_resting = 0
_resting_lock = threading.Lock()


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No cyclic garbage collection while rows are loaded, and none of them looked at afterwards.

    Rows have no cycles, and collecting while a million of them arrive takes three times as long
    as reading them. Several partitions may be restored at once.
    """
    global _resting
    with _resting_lock:
        _resting += 1
        gc.disable()
    try:
        yield
    finally:
        with _resting_lock:
            _resting -= 1
            if not _resting:
                gc.freeze()
                gc.enable()


class _Batches:
    """Collects state rows and hands them on, many at a time, so that few are here twice."""

    def __init__(self, load: Callable[[dict[bytes, bytes]], None]) -> None:
        self._load = load
        self._held: dict[bytes, bytes] = {}
        self.rows = 0

    def add(self, key: bytes, value: bytes) -> None:
        """The next row of the log."""
        self._held[key] = value
        self.rows += 1
        if len(self._held) >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand on what is held."""
        held, self._held = self._held, {}
        self._load(held)


def _ignore(_key: bytes, _value: bytes) -> None:
    pass


def _read_to_end(
    consumer: Consumer, keep: Callable[[bytes, bytes], None], stopping: threading.Event
) -> Marker | None:
    marker = None
    while not stopping.is_set():
        # A short time-out: consume() waits it out whole unless the batch fills.
        for message in consumer.consume(2000, 0.02):
            error, key, value = message.error(), message.key(), message.value()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return marker
            elif key == MARKER_KEY and value is not None:
                marker = _decode(value)
            elif key is not None:
                keep(key, value or b"")
    raise Fenced("stopped while the state was read")


def _produce(producer: Producer, record: OutRecord) -> None:
    while True:
        try:
            producer.produce(
                record.topic, record.value, record.key, partition=record.partition,
                headers=record.headers,
            )  # fmt: skip
        except BufferError:
            producer.poll(0.01)
        else:
            return
