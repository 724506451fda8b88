"""Usage events from a gateway to Kafka: numbered, logged before they are sent, sent in order.

Reports on leases travel with them, unnumbered and in the same order.

`emit` returns when the event has its number and is in the write-ahead log (wal.py says what that
survives); a thread behind it does everything with Kafka, so the network never holds up a caller.
Kafka gets every event at least once, and the meter recognises a repeated one by its number.
"""

from __future__ import annotations

import atexit
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, get_args

from confluent_kafka import KafkaException, Producer
from uuid_utils import uuid7

from sluice.errors import ConfigError, OutsideError, SluiceError, WireError
from sluice.wire.codec import END_MARK, MAX_VALUE_BYTES, encode
from sluice.wire.emitter_delivery import Connect
from sluice.wire.emitter_encode import RecordEncoder
from sluice.wire.emitter_sender import OnError, Sender, SenderOptions
from sluice.wire.emitter_stats import Counts, EmitterStats
from sluice.wire.wal import Fsync, Log, SpoolFull, source_folder
from sluice.wire.wal_standing import UNNUMBERED

MIN_WAL_BYTES = 64 * 2**10
_MAX_SOURCE_BYTES = 256
_MAX_SEGMENT_BYTES = 8 * 2**20
_SEGMENTS = 16
_LOOK_AGAIN_S = 0.05
_AT_EXIT_TIMEOUT_S = 2.0

Taken = TypeVar("Taken")


class Position(NamedTuple):
    """Name of an emitted event: its id, and its number under its tenant in an epoch."""

    event_id: str
    source_epoch: str
    source_seq: int


@dataclass(slots=True)
class _Epoch:
    """What belongs to one process: a log of its own, the last number of every key, a sender."""

    log: Log
    sender: Sender
    last_seq: dict[str, int] = field(default_factory=dict)


class UsageEmitter:
    """Emits UsageEvents of one source to one topic; every method may be called from any thread.

    `wal_max_bytes` bounds the logs on disk, those taken over included. When they are full, because
    Kafka is away or slow, `emit` waits up to `full_timeout_ms` and then raises SpoolFull; nothing
    already taken is ever given up for something new. `fsync` says what a loss of power may cost,
    see wal.py. `on_error` hears of every trouble behind `emit`, in another thread. A forked child
    is a new source_epoch with a log of its own; what the parent has pending stays the parent's.

    Emitters of any source may share `wal_dir`: whoever lives sends what others left behind.

    Raises ConfigError where an argument cannot work, OutsideError where `wal_dir` cannot be used.
    """

    _epoch: _Epoch | None

    def __init__(self, producer_config: Mapping[str, Any], topic: str, source: str, wal_dir: Path,
                 *, wal_max_bytes: int = 256 * 2**20, fsync: Fsync = "interval",
                 fsync_interval_ms: int = 200, full_timeout_ms: int = 1000,
                 on_error: OnError | None = None, connect: Connect = Producer,
                 new_id: Callable[[], str] = lambda: str(uuid7()),
                 new_epoch: Callable[[], str] = lambda: secrets.token_hex(8)) -> None:  # fmt: skip
        _check(source, wal_max_bytes, fsync, fsync_interval_ms)
        self._source = source
        self._wal_max_bytes = wal_max_bytes
        self._full_timeout_s = full_timeout_ms / 1000
        self._new_id = new_id
        self._new_epoch = new_epoch
        self._options = SenderOptions(producer_config, topic, wal_dir.absolute(), fsync,
                                      fsync_interval_ms, on_error, connect,
                                      self._close_leases)  # fmt: skip
        self._encoder = RecordEncoder.framed("UsageEvent")
        self._closed = False
        self._begin()
        with self._lock:
            self._reopen()
        _emitters.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._counts = Counts()
        self._epoch = None

    def _open(self) -> _Epoch:
        options = self._options
        folder = source_folder(options.wal_dir, self._source)
        segment_bytes = min(_MAX_SEGMENT_BYTES, self._wal_max_bytes // _SEGMENTS)
        log = Log.create(folder, options.topic, segment_bytes, options.fsync, self._new_epoch)
        try:
            sender = Sender(log, self._counts, self._changed, options)
        except KafkaException as error:
            log.close()
            raise ConfigError(f"producer_config: {error.args[0].str()}") from error
        sender.start()
        return _Epoch(log, sender)

    # ---- emitting

    def emit(self, event: Mapping[str, Any]) -> Position:
        """Take one UsageEvent and return its name.

        Fills event_id unless given, and always source, source_epoch, source_seq (from 1 under each
        tenant_id of the epoch, without holes) and end_mark; other absent fields take their
        defaults. Raises WireError (missing_tenant, unencodable, too_large), SpoolFull, OutsideError
        (the log cannot be written); the event was not taken then and has no number.
        """
        tenant = _tenant_of(event)
        with self._lock:
            return self._patiently(lambda: self._take(event, tenant))

    def report(self, report: Mapping[str, Any]) -> str:
        """Queue one HolderReport behind all usage emitted so far; returns its source_epoch.

        Fills holder, source_epoch and last_seq. One on a budget that spans tenants has an empty
        tenant_id: it goes to the leases topic beside the usage topic, and its last_seq counts the
        events under all keys. The newest report on each lease is kept with the log, so that a
        successor can close what this process leaves open. Raises as `emit` does.
        """
        tenant = "" if report.get("tenant_id") == "" else _tenant_of(report)
        with self._lock:
            return self._patiently(lambda: self._take_report(report, tenant))

    def _take_report(self, report: Mapping[str, Any], tenant: str) -> str:
        epoch = self._epoch or self._reopen()
        last_seq = epoch.last_seq.get(tenant, 0) if tenant else sum(epoch.last_seq.values())
        own = {"holder": self._source, "source_epoch": epoch.log.epoch, "last_seq": last_seq}
        self._append(epoch, tenant.encode(), encode("HolderReport", {**report, **own}))
        return epoch.log.epoch

    def _append(self, epoch: _Epoch, key: bytes, value: bytes) -> None:
        limit_bytes = self._wal_max_bytes - epoch.sender.adopted_bytes
        epoch.log.append(UNNUMBERED, key, value, limit_bytes)
        self._counts.emitted += 1
        epoch.sender.notice()

    def _close_leases(self, log: Log) -> bool:
        """Say in the name of an ended process, whose log is delivered, that its leases are closed.

        False where that cannot be written down now.
        """
        with self._lock:
            epoch = self._epoch
            if epoch is None:
                return False
            try:
                for key, report in log.standing.closings():
                    self._append(epoch, key, encode("HolderReport", report))
            except OutsideError:
                return False
        return True

    def _patiently(self, take: Callable[[], Taken]) -> Taken:
        try:
            return take()
        except SpoolFull:
            return self._take_late(take)

    def _take_late(self, take: Callable[[], Taken]) -> Taken:
        deadline = time.monotonic() + self._full_timeout_s
        while True:
            if self._epoch:
                self._epoch.sender.notice()
            left_s = deadline - time.monotonic()
            self._changed.wait(min(max(left_s, 0), _LOOK_AGAIN_S))
            try:
                return take()
            except SpoolFull:
                if left_s <= 0:
                    self._counts.spool_full += 1
                    raise

    def _take(self, event: Mapping[str, Any], tenant: str) -> Position:
        epoch = self._epoch or self._reopen()
        seq = epoch.last_seq.get(tenant, 0) + 1
        position = Position(event.get("event_id") or self._new_id(), epoch.log.epoch, seq)
        value = self._encode(event, position)
        # Counted before it is written: an interrupt in between makes a hole in the numbers, where
        # otherwise it could give one number to two events.
        epoch.last_seq[tenant] = seq
        limit_bytes = self._wal_max_bytes - epoch.sender.adopted_bytes
        try:
            epoch.log.append(seq, tenant.encode(), value, limit_bytes)
        except SluiceError:
            epoch.last_seq[tenant] = seq - 1
            raise
        self._counts.emitted += 1
        epoch.sender.notice()
        return position

    def _encode(self, event: Mapping[str, Any], position: Position) -> bytes:
        event_id, epoch, seq = position
        own = {"event_id": event_id, "source": self._source, "source_epoch": epoch,
               "source_seq": seq, "end_mark": END_MARK}  # fmt: skip
        value = self._encoder.encode(event, own)
        if len(value) > MAX_VALUE_BYTES:
            raise WireError("too_large", f"{len(value)} bytes, at most {MAX_VALUE_BYTES}")
        return value

    def _reopen(self) -> _Epoch:
        if self._closed:
            raise SluiceError("this emitter is closed; make a new one")
        epoch = self._epoch = self._open()
        return epoch

    # ---- the rest of its life

    def flush(self, timeout_s: float = 10.0) -> int:
        """Wait until Kafka has acknowledged everything, also what was taken over.

        Returns the number of records still pending: 0 unless the time ran out.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while (epoch := self._epoch) is not None and not epoch.sender.drained:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, _LOOK_AGAIN_S))
        return self._counts.pending

    def close(self, timeout_s: float = 10.0) -> int:
        """Flush and stop; returns the number of records left in the log for a successor."""
        self._closed = True
        left = self.flush(timeout_s)
        with self._lock:
            epoch, self._epoch = self._epoch, None
        if epoch is not None:
            epoch.sender.close()
            left = self._counts.pending
        _emitters.discard(self)
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    @property
    def source(self) -> str:
        """Name of the emitting process, the holder of its leases."""
        return self._source

    @property
    def source_epoch(self) -> str | None:
        """Epoch of this process; None once closed, and in a forked child before its first event."""
        epoch = self._epoch
        return epoch.log.epoch if epoch else None

    def stats(self) -> EmitterStats:
        """What happened so far."""
        epoch = self._epoch
        if epoch is None:
            return self._counts.stats(0, 0)
        wal_bytes = epoch.log.bytes + epoch.sender.adopted_bytes
        return self._counts.stats(epoch.sender.unsent_bytes, wal_bytes)

    def after_fork(self) -> None:
        """Begin anew in a forked child, at its first event; the parent keeps what it has."""
        epoch = self._epoch
        self._begin()
        if epoch is not None:
            epoch.sender.abandon()


def _tenant_of(record: Mapping[str, Any]) -> str:
    tenant = record.get("tenant_id")
    if not tenant or not isinstance(tenant, str):
        raise WireError("missing_tenant", "tenant_id is empty")
    return tenant


def _check(source: str, wal_max_bytes: int, fsync: str, fsync_interval_ms: int) -> None:
    if not 0 < len(source.encode()) <= _MAX_SOURCE_BYTES:
        raise ConfigError(f"source has 1 to {_MAX_SOURCE_BYTES} bytes, not {source!r}")
    if wal_max_bytes < MIN_WAL_BYTES:
        raise ConfigError(f"wal_max_bytes is at least {MIN_WAL_BYTES}, not {wal_max_bytes}")
    if fsync not in get_args(Fsync):
        raise ConfigError(f"fsync is one of {', '.join(get_args(Fsync))}, not {fsync!r}")
    if fsync_interval_ms <= 0:
        raise ConfigError(f"fsync_interval_ms is above 0, not {fsync_interval_ms}")


# Until they are closed: a forgotten one still sends.
_emitters: set[UsageEmitter] = set()


def _after_fork() -> None:
    for emitter in list(_emitters):
        emitter.after_fork()


def _at_exit() -> None:
    for emitter in list(_emitters):
        emitter.close(_AT_EXIT_TIMEOUT_S)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
