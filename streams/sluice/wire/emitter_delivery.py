"""Hands records to librdkafka and takes its reports; one producer after another if need be.

A producer that fails for good is replaced, and everything without acknowledgement is to be
offered again from the oldest on. librdkafka's gapless guarantee ends a producer with its first
failed batch, so no later record of a key gets before an earlier one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from sluice.errors import WireError
from sluice.wire.codec import decode
from sluice.wire.emitter_stats import Counts, EmitterError
from sluice.wire.topics import leases_beside
from sluice.wire.wal_frames import Frame
from sluice.wire.wal_segment import Segment
from sluice.wire.wal_standing import ACROSS

Report = Callable[[EmitterError], None]
Refuse = Callable[[Frame], None]
Connect = Callable[[dict[str, Any]], Any]

_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
# Faults of a record that no other attempt will mend.
_HOPELESS = frozenset({
    KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP,
})  # fmt: skip
# There is no leases topic for this producer: nobody grants what spans tenants.
_NO_PLACE = frozenset({
    KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
})  # fmt: skip
# What follows from another error that a report names.
_CONSEQUENCES = frozenset({KafkaError._GAPLESS_GUARANTEE, KafkaError._FATAL})
_PURGE_TIMEOUT_S = 5.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_MAX_DOUBLINGS = 10

_DEFAULTS: Mapping[str, Any] = {
    # A third smaller than lz4 at the same cost per event.
    "compression.type": "zstd",
    "linger.ms": 5,
    # The log keeps the records: librdkafka needs as many as keep the connection busy.
    "queue.buffering.max.messages": 20_000,
    "queue.buffering.max.kbytes": 65_536,
    "message.max.bytes": 2 * 2**20,
    # Errors are told through `report`; the rest is a word on the gapless option below.
    "log_level": 2,
}
_REQUIRED: Mapping[str, Any] = {
    "enable.idempotence": True,
    # Called experimental since 2018, and all that keeps the order behind a failed batch.
    "enable.gapless.guarantee": True,
    "acks": "all",
    # A record that times out could be overtaken, and the log has no time limit anyway.
    "message.timeout.ms": 0,
    "partitioner": "murmur2_random",
    "delivery.report.only.error": False,
}


class Delivery:
    """Idempotent producer of one topic that is replaced after errors it cannot get over.

    Records under the key ACROSS go to the leases topic beside it. Where there is none they are
    dropped, so that usage never waits for it: whoever needs a lease reports again. `refuse` gets
    the records that Kafka will never take. One thread only; reports come in `poll`.
    Raises KafkaException where librdkafka does not accept `config`.
    """

    def __init__(self, config: Mapping[str, Any], topic: str, counts: Counts, report: Report,
                 refuse: Refuse, connect: Connect = Producer) -> None:  # fmt: skip
        self._config = {**_DEFAULTS, **config, **_REQUIRED, "error_cb": self._client_error}
        self._topic = topic
        self._leases = leases_beside(topic)
        self._told_no_place = False
        self._counts = counts
        self._report = report
        self._refuse = refuse
        self._connect = connect
        self._attempts = 0
        self._suspects = 0
        self._client_errors: set[int] = set()
        self._start(one_by_one=False)

    def _start(self, *, one_by_one: bool) -> None:
        # A broker refuses a whole batch for one record's fault; alone, each is judged for itself.
        over = {"batch.num.messages": 1} if one_by_one else {}
        self._producer = self._connect(self._config | over)
        self._one_by_one = one_by_one
        self._undelivered = 0
        self._hopeless = self._told = self.failed = False

    @property
    def busy(self) -> bool:
        """Whether reports are to be expected."""
        return len(self._producer) > 0

    def poll(self) -> None:
        """Take the reports that have come; `failed` says whether a `restart` is due."""
        try:
            self._producer.poll(0)
        except KafkaException as error:
            self._fail(error.args[0])

    def offer(self, segment: Segment, frame: Frame) -> bool:
        """Hand a record over; False: not now, offer it again after a `poll`."""
        if not self._ready() or (self.busy and _ends_lease(frame)):
            return False
        delivered = partial(self._delivered, segment, frame)
        topic = self._leases if frame.key == ACROSS else self._topic
        try:
            self._producer.produce(topic, frame.value, frame.key, on_delivery=delivered)
        except BufferError:
            return False
        except KafkaException as error:
            return self._not_taken(segment, frame, error.args[0])
        return True

    def _ready(self) -> bool:
        if self._one_by_one and self._suspects <= 0:
            if self.busy:
                return False
            self._start(one_by_one=False)
        return True

    def _not_taken(self, segment: Segment, frame: Frame, error: KafkaError) -> bool:
        self._counts.delivery_errors[error.name()] += 1
        if _has_no_place(frame, error):
            self._drop(segment, frame, error)
            return True
        if error.code() in _HOPELESS:
            self._set_aside(segment, frame, error)
            return True
        self._fail(error, frame)
        return False

    def _delivered(self, segment: Segment, frame: Frame, error: KafkaError | None, _: Any) -> None:
        if error is None:
            self._attempts = 0
            self._suspects -= 1
            self._client_errors.clear()
            self._told_no_place = self._told_no_place and frame.key != ACROSS
            self._counts.acknowledged += segment.acknowledge(frame.ordinal)
            return
        if _has_no_place(frame, error):
            self._counts.delivery_errors[error.name()] += 1
            self._drop(segment, frame, error)
            return
        self._undelivered += 1
        if error.code() in _PURGED:
            return
        self._counts.delivery_errors[error.name()] += 1
        if error.code() not in _HOPELESS:
            self._fail(error, frame)
        elif self._one_by_one:
            self._set_aside(segment, frame, error)
            self.failed = True
        else:
            self._hopeless = self.failed = True

    def _set_aside(self, segment: Segment, frame: Frame, error: KafkaError) -> None:
        self._attempts = 0
        self._suspects -= 1
        if segment.acknowledge(frame.ordinal):
            self._counts.refused += 1
            self._refuse(frame)
            self._report(EmitterError(error.name(), error.str(), frame.key, frame.seq))

    def _drop(self, segment: Segment, frame: Frame, error: KafkaError) -> None:
        self._suspects -= 1
        self._counts.refused += segment.acknowledge(frame.ordinal)
        if not self._told_no_place:
            self._told_no_place = True
            self._report(EmitterError(error.name(), f"{self._leases}: {error.str()}"))

    def _fail(self, error: KafkaError, frame: Frame | None = None) -> None:
        self.failed = True
        if not self._told and error.code() not in _CONSEQUENCES:
            self._told = True
            key, seq = (frame.key, frame.seq) if frame else (None, None)
            self._report(EmitterError(error.name(), error.str(), key, seq))

    def _client_error(self, error: KafkaError) -> None:
        # Said once per outage: librdkafka repeats it with every attempt to connect.
        if error.code() not in self._client_errors:
            self._client_errors.add(error.code())
            self._report(EmitterError(error.name(), error.str()))

    def restart(self) -> float:
        """Replace a failed producer; every record is to be offered again after so many seconds."""
        self.close()
        if self._hopeless:
            self._suspects = self._undelivered
        self._start(one_by_one=self._hopeless or (self._one_by_one and self._suspects > 0))
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**self._attempts)
        self._attempts = min(self._attempts + 1, _MAX_DOUBLINGS)
        return pause_s

    def close(self) -> None:
        """Give up what is under way; what got through before is acknowledged."""
        deadline = time.monotonic() + _PURGE_TIMEOUT_S
        self._producer.purge()
        while self.busy and time.monotonic() < deadline:
            try:
                self._producer.flush(_PURGE_TIMEOUT_S)
            except KafkaException as error:
                self._fail(error.args[0])


def _has_no_place(frame: Frame, error: KafkaError) -> bool:
    return frame.key == ACROSS and error.code() in _NO_PLACE


def _ends_lease(frame: Frame) -> bool:
    """Whether a record must not overtake usage that is on its way to other partitions.

    Such a report is taken to come behind all usage of its process.
    """
    if frame.key != ACROSS:
        return False
    try:
        kind, report = decode(frame.value)
    except WireError:
        return False
    return kind == "HolderReport" and bool(report["closing"])
