"""The edge of admission: reads the control topic from Kafka into an admission point.

The topic is read from its beginning into a fresh state, which the point adopts when it is complete;
what arrives later is applied at once. Whatever makes the position doubtful (the topic was made
anew, an offset is gone, a fork) starts that over, while the point answers from what it holds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from sluice.admission.background import Background, uncollected
from sluice.admission.control_state import ControlState
from sluice.admission.decision import CONDITIONS
from sluice.admission.desk_options import DeskOptions
from sluice.admission.point import COLD_START, AdmissionPoint, ColdStart
from sluice.admission.reporting import Emitter
from sluice.errors import OutsideError
from sluice.settings import Settings
from sluice.wire.kafka import consumer_config, topics

TOPIC_CHECK_S = 30.0
_POLL_S = 0.2
_RETRY_S = 0.5
_METADATA_S = 5.0
_CHECK_S = 1.0
_BATCH = 1000
# At most so long the gateway goes without its collector: a broker may fall silent meanwhile.
_UNCOLLECTED_S = 10.0
# Errors that end by themselves: the client reconnects and fetches on.
_PASSING = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT,
     KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION}
)  # fmt: skip

_log = logging.getLogger(__name__)


class ControlSubscriber:
    """Keeps an admission point up to date, on a thread of its own, until `close`.

    `config` holds librdkafka consumer options with `isolation.level` read_committed. No consumer
    group takes part: every point reads every partition.
    """

    def __init__(
        self, config: Mapping[str, Any], topic: str, point: AdmissionPoint, *,
        topic_check_s: float = TOPIC_CHECK_S,
    ) -> None:  # fmt: skip
        self._config = {
            **config,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
        }
        self._topic = topic
        self._point = point
        self._topic_check_s = topic_check_s
        self._thread = Background("sluice-control", self._run)

    def close(self) -> None:
        """Stop following; the point goes on with what it holds."""
        self._thread.close()

    def _run(self, stop: threading.Event) -> None:
        told = ""
        while not stop.is_set():
            try:
                self._follow(stop)
            except (KafkaException, OutsideError) as error:
                if str(error) != told:
                    _log.warning("control topic %s: %s; trying again", self._topic, error)
                told = str(error)
            except Exception:
                _log.exception("control topic %s: reading it again", self._topic)
            stop.wait(_RETRY_S)

    def _follow(self, stop: threading.Event) -> None:
        consumer = Consumer(self._config)
        try:
            admin = AdminClient(self._config)
            reader = _Reader(consumer, admin, self._topic, self._point)
            reader.begin()
            rest_until = time.monotonic() + _UNCOLLECTED_S
            with uncollected():
                while reader.in_snapshot and time.monotonic() < rest_until and not stop.is_set():
                    reader.read(_POLL_S)
            check_at = time.monotonic() + self._topic_check_s
            while not stop.is_set():
                reader.read(_POLL_S)
                if time.monotonic() > check_at:
                    reader.check_topic()
                    check_at = time.monotonic() + self._topic_check_s
        finally:
            consumer.close()


class _Reader:
    """One reading of the topic from its beginning on."""

    def __init__(
        self, consumer: Consumer, admin: AdminClient, topic: str, point: AdmissionPoint
    ) -> None:
        self._consumer = consumer
        self._admin = admin
        self._topic = topic
        self._topic_id: str | None = None
        self._point = point
        self._fresh: ControlState | None = point.empty_state()
        self._next: dict[int, int] = {}
        # Partitions of which the snapshot is still being read, and where it ends at the latest: on
        # a topic that is never quiet, the event of having reached the end may not come.
        self._ends: dict[int, int] = {}

    @property
    def in_snapshot(self) -> bool:
        """Whether what the topic held in the beginning is still being read."""
        return self._fresh is not None

    def begin(self) -> None:
        """Read every partition there is; KafkaException where the topic cannot be had."""
        self._topic_id, found = self._described(_METADATA_S)
        self._read_also(found)

    def check_topic(self) -> None:
        """Read partitions that were added; OutsideError where the topic was made anew.

        A topic made anew may have grown beyond the position before anything was fetched again, so
        that offsets alone do not tell. A broker that does not answer is asked another time.
        """
        try:
            topic_id, found = self._described(_CHECK_S)
            if topic_id != self._topic_id or self._next.keys() - found:
                raise OutsideError(f"topic {self._topic} was made anew, reading it again")
            self._read_also(found)
        except KafkaException as error:
            if error.args[0].code() not in _PASSING:
                raise

    def _described(self, timeout_s: float) -> tuple[str, set[int]]:
        wanted = TopicCollection([self._topic])
        future = self._admin.describe_topics(wanted, request_timeout=timeout_s)[self._topic]
        description = future.result()
        return str(description.topic_id), {place.id for place in description.partitions}

    def _read_also(self, found: set[int]) -> None:
        new = sorted(found - self._next.keys())
        if new:
            # The consumer itself does not know of new partitions yet.
            self._consumer.list_topics(self._topic, timeout=_METADATA_S)
            ends = {partition: self._end(partition) for partition in new}
            self._consumer.incremental_assign(
                [TopicPartition(self._topic, partition, OFFSET_BEGINNING) for partition in new]
            )
            self._ends |= ends
            self._next |= dict.fromkeys(new, 0)
        self._adopt_if_complete()

    def _end(self, partition: int) -> int:
        place = TopicPartition(self._topic, partition)
        _, end = self._consumer.get_watermark_offsets(place, _METADATA_S)
        return int(end)

    def read(self, timeout_s: float) -> None:
        """Handle what has arrived; wait at most `timeout_s` for the first message."""
        # `consume` waits for the whole number it was asked for, `poll` for one message only.
        first = self._consumer.poll(timeout_s)
        if first is not None:
            self._handle(first)
            for message in self._consumer.consume(_BATCH, 0):
                self._handle(message)

    def _handle(self, message: Message) -> None:
        error = message.error()
        if error is None:
            self._apply(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._at_end(message)
        elif error.code() not in _PASSING:
            raise KafkaException(error)

    def _apply(self, message: Message) -> None:
        partition, offset = self._place(message)
        self._next[partition] = offset + 1
        in_snapshot = partition in self._ends
        if self._fresh is not None:
            self._fresh.apply(partition, message.key(), message.value(), self._point.now())
        else:
            self._point.apply(partition, message.key(), message.value(), live=not in_snapshot)
        if in_snapshot and offset + 1 >= self._ends[partition]:
            self._complete(partition)

    def _at_end(self, message: Message) -> None:
        partition, _ = self._place(message)
        self._complete(partition)

    def _place(self, message: Message) -> tuple[int, int]:
        """Partition and offset; OutsideError where the partition went back."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or offset < self._next[partition]:
            raise OutsideError(
                f"{self._topic}-{partition} went back to offset {offset}, reading it again"
            )
        return partition, offset

    def _complete(self, partition: int) -> None:
        if self._ends.pop(partition, None) is not None:
            self._adopt_if_complete()

    def _adopt_if_complete(self) -> None:
        if self._fresh is not None and not self._ends:
            self._point.adopt(self._fresh)
            self._fresh = None
        if self._fresh is None:
            self._point.expect(self._next.keys())


@contextmanager
def follow(
    settings: Settings, source: str, emitter: Emitter | None = None, *,
    cold_start: ColdStart = COLD_START, carries_out: Collection[str] = CONDITIONS,
    leases: DeskOptions | None = None,
) -> Iterator[AdmissionPoint]:  # fmt: skip
    """An admission point that follows the control topic of `settings` inside the `with` block.

    It is handed out at once; `cold_start` says how it answers until the topic was read. `source`
    names this process in its reports. Leases are closed in the end: keep the emitter open until
    then.
    """
    point = AdmissionPoint(None, emitter, source=source, cold_start=cold_start,
                           carries_out=carries_out, leases=leases)  # fmt: skip
    subscriber = ControlSubscriber(consumer_config(settings), topics(settings).control, point)
    reports = Background("sluice-reports", point.report_until)
    try:
        yield point
    finally:
        subscriber.close()
        reports.close()
        point.close()
