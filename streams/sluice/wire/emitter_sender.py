"""The thread behind an emitter: sends its log and those that ended processes left, in order."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from sluice.wire.emitter_delivery import Connect, Delivery
from sluice.wire.emitter_stats import Counts, EmitterError
from sluice.wire.wal import Fsync, Log, keep_refused, orphans
from sluice.wire.wal_frames import Frame
from sluice.wire.wal_standing import Standing

_logger = logging.getLogger(__name__)

OnError = Callable[[EmitterError], None]
# Closes the leases of a log whose records are all delivered; False: not now, ask again.
OnDrained = Callable[[Log], bool]

_RECORDS_PER_TURN = 32
_YIELD_S = 0.000_05
_BUSY_WAIT_S = 0.002
_IDLE_WAIT_S = 0.25
_SAVE_EVERY_S = 1.0
_ADOPT_EVERY_S = 5.0
_FAULT_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """What a sender needs to know; `on_error` is called in its thread."""

    config: Mapping[str, Any]
    topic: str
    wal_dir: Path
    fsync: Fsync = "interval"
    fsync_interval_ms: int = 200
    on_error: OnError | None = None
    connect: Connect = Producer
    on_drained: OnDrained = lambda _: True


class Sender:
    """Sends `own`, to which the emitter appends, and before it every orphaned log below `wal_dir`.

    `changed` is the emitter's condition: held around changes that its thread counts with, notified
    when there is more room or nothing pending.
    """

    def __init__(self, own: Log, counts: Counts, changed: threading.Condition,
                 options: SenderOptions) -> None:  # fmt: skip
        self._own = own
        self._counts = counts
        self._changed = changed
        self._options = options
        self._logs = [own]
        self._delivery = Delivery(options.config, options.topic, counts, self._report,
                                  self._refuse, options.connect)  # fmt: skip
        self._wake = threading.Event()
        self._waiting = self._stopping = self._settled = self._held_up = False
        self._resume_at = self._save_at = self._sync_at = self._adopt_at = 0.0
        self._delivered = 0
        self.adopted_bytes = 0
        self._thread = threading.Thread(target=self._run, name="sluice-emitter", daemon=True)

    # ---- for the emitter's threads

    def start(self) -> None:
        """Begin to send; `turn` is the thread's from now on."""
        self._thread.start()

    def notice(self) -> None:
        """Something was appended."""
        if self._waiting:
            self._wake.set()

    @property
    def drained(self) -> bool:
        """Whether nothing is pending, in logs of former processes neither."""
        return self._settled and self._counts.pending == 0

    @property
    def unsent_bytes(self) -> int:
        """Bytes not yet handed to Kafka."""
        return sum(log.cursor.unsent_bytes for log in list(self._logs))

    def close(self) -> None:
        """Stop sending; what is pending stays in the logs for a successor."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def abandon(self) -> None:
        """In a forked child: leave everything to the parent."""
        for log in self._logs:
            log.abandon()
        # Its threads did not come along: destroying it here would wait for them.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._delivery))

    # ---- the thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._rest(sent=self.turn() > 0)
            except Exception as error:
                _logger.exception("the sending thread goes on after an error")
                self._report(EmitterError("INTERNAL", f"{type(error).__name__}: {error}"))
                self._wake.wait(_FAULT_PAUSE_S)
        self._delivery.close()
        for log in self._logs:
            log.close()

    def turn(self) -> int:
        """Take reports, send some records, tidy up; returns how many were sent."""
        self._keep_house(time.monotonic())
        self._delivery.poll()
        if self._delivery.failed:
            self._start_again()
        self._held_up = time.monotonic() < self._resume_at
        sent = 0 if self._held_up else self._send()
        self._drop_delivered()
        return sent

    def _send(self) -> int:
        sent, self._held_up = 0, True
        for log in self._logs:
            while sent < _RECORDS_PER_TURN and (frame := log.cursor.peek()) is not None:
                if not self._delivery.offer(log.cursor.segment, frame):
                    return sent
                self._counts.resent += log.cursor.advance()
                sent += 1
        self._held_up = False
        return sent

    def _start_again(self) -> None:
        pause_s = self._delivery.restart()
        for log in self._logs:
            log.cursor.rewind()
        self._resume_at = time.monotonic() + pause_s

    def _drop_delivered(self) -> None:
        delivered = self._counts.acknowledged + self._counts.refused
        # A file may be sealed after its last record was delivered.
        if delivered == self._delivered and not self._own.has_finished:
            return
        self._delivered = delivered
        with self._changed:
            found = [(log, log.detach_finished()) for log in self._logs]
            finished = [(log, gone, log.standing.packed()) for log, gone in found if gone]
            self._count_adopted()
            if finished or self._counts.pending == 0:
                self._changed.notify_all()
        for log, gone, standing in finished:
            log.save_standing(standing)
            for segment in gone:
                segment.delete()
        self._bury()

    def _bury(self) -> None:
        """Give up logs of former processes that are delivered, their leases closed before."""
        for log in [log for log in self._logs if log is not self._own and not log.segments]:
            if log.standing and not self._options.on_drained(log):
                # Asked again in the next turn.
                self._delivered = -1
                continue
            log.standing = Standing(log.epoch)
            self._logs.remove(log)
            log.close()

    def _rest(self, *, sent: bool) -> None:
        if sent:
            # Lets threads that emit have the interpreter between two turns.
            time.sleep(_YIELD_S)
            return
        if self._held_up or self._delivery.busy:
            # Not woken by every event: a few go together, as they do in librdkafka's batches.
            time.sleep(_BUSY_WAIT_S)
            return
        self._waiting = True
        # Asked after the flag is up: whoever appends from now on sees it.
        if not self._stopping and self._own.cursor.peek() is None:
            self._wake.wait(_IDLE_WAIT_S)
        self._waiting = False
        self._wake.clear()

    # ---- the files

    def _keep_house(self, now: float) -> None:
        try:
            if now >= self._adopt_at:
                self._adopt_at = now + _ADOPT_EVERY_S
                self._adopt()
            if now >= self._save_at:
                self._save_at = now + _SAVE_EVERY_S
                self._each(Log.save_acknowledgements)
            if self._options.fsync == "interval" and now >= self._sync_at:
                # Twice per interval: what one call finds, the next one forces to disk.
                self._sync_at = now + self._options.fsync_interval_ms / 2000
                self._each(Log.sync_aged)
        except OSError as error:
            self._trouble(error)

    def _trouble(self, error: OSError) -> None:
        self._report(EmitterError("WAL_IO", f"{error}; check wal_dir"))

    def _each(self, work: Callable[[Log], None]) -> None:
        for log in self._logs:
            work(log)

    def _adopt(self) -> None:
        for log in orphans(self._options.wal_dir, self._options.topic):
            self._note_damage(log)
            self._logs.insert(-1, log)
            self._count_adopted()
            self._counts.recovered += log.pending
            _logger.info("%d records of %s are sent again", log.pending, log.folder)
            # It may be finished already.
            self._delivered = -1
        self._settled = True

    def _count_adopted(self) -> None:
        self.adopted_bytes = sum(log.bytes for log in self._logs if log is not self._own)

    def _note_damage(self, log: Log) -> None:
        damage = log.damage
        self._counts.damage += damage
        if damage.stretches:
            self._report(EmitterError(
                "WAL_DAMAGED",
                f"{log.folder}: {damage.skipped_bytes} bytes in {damage.stretches} places were "
                "unreadable, the records around them are sent",
            ))  # fmt: skip

    def _refuse(self, frame: Frame) -> None:
        try:
            keep_refused(self._own.folder.parent, frame)
        except OSError as error:
            self._trouble(error)

    def _report(self, error: EmitterError) -> None:
        _logger.warning("%s: %s", error.code, error.message)
        self._counts.last_error = error
        if self._options.on_error is not None:
            try:
                self._options.on_error(error)
            except Exception:
                _logger.exception("on_error failed")
