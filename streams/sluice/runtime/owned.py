"""One partition that a process owns: its state in memory, its log, how far it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import KafkaException

from sluice.metering.windows import watermark
from sluice.runtime.across import Across
from sluice.runtime.checkpoint import Fenced, PartitionLog, first_and_end
from sluice.runtime.chunks import Chunk
from sluice.runtime.governed import Governed
from sluice.runtime.metrics import Metrics
from sluice.runtime.outputs import OutRecord
from sluice.runtime.partition import Partition
from sluice.runtime.places import Place
from sluice.runtime.references import References
from sluice.runtime.state import State
from sluice.settings import Settings
from sluice.wire.codec import encode
from sluice.wire.kafka import topics

log = logging.getLogger(__name__)

_REFERENCE_WAIT_S = 0.02
_BROKER_WAIT_S = 0.5
_SLOW_COMMIT_S = 1.0  # a commit that takes longer waits for the broker
DOUBT_S = 3.0  # how long an activated version may take to arrive before it is asked for
_ANNOUNCE_AGAIN_S = 60.0  # what was appended needs a moment to come back
_SHOWN_SOURCES = 100


class Hole(Exception):
    """Records between what was applied and what arrived are missing; going on would lose them."""


class OwnedPartition:
    """One partition's state in memory, its checkpoint log, and the position reached."""

    def __init__(
        self, settings: Settings, place: Place, references: References, metrics: Metrics
    ) -> None:
        self._metrics = metrics
        self._settings = settings
        self._topics = topics(settings)
        self._references = references
        self.place = place
        self.number = place.number
        source = (place.source, place.partition)
        self.log = PartitionLog(settings, place.app, source, place.changelog)
        self.lock = asyncio.Lock()
        self.partition: Governed | None = None
        self.position = 0
        self.committed = 0
        self.end: int | None = None
        self.announce_at = 0.0
        self._moved_at = self._still_since = self._probed_at = time.monotonic()
        self._commit_begun: float | None = None
        self.expired = 0
        self.last_record_at = 0.0
        self.last_heartbeat_at = 0.0

    def restore(self) -> OwnedPartition:
        """Take the partition over; blocks, call it in a thread."""
        state = State(
            self._settings.lateness_s * 1_000_000, self._settings.dedupe_window_s * 1_000_000
        )
        position = self.log.restore(state.load)
        start = self._first_offset()
        if position is not None and start > position:
            self.expired = start - position
            log.error("partition %d: %d records expired unread", self.number, self.expired)
            state.count("expired", self.expired)
        self.position = max(start, position or 0)
        self.committed = self.position
        begin: Callable[..., Governed] = Partition if self.place.of_tenants else Across
        self.partition = begin(
            self._topics, self.place.partition, state, self._references,
            epoch=self.log.marker.epoch, generation=self._settings.topic_generation,
        )  # fmt: skip
        self._moved_at = self._still_since = self._probed_at = time.monotonic()
        return self

    async def apply(self, chunk: Chunk) -> None:
        """Apply a chunk; waits where a version that it activates has not arrived yet."""
        partition = self._ready_partition()
        waiting_since = time.monotonic()
        if chunk.start != self.position:
            raise Hole(f"partition {self.number}: at {self.position}, got {chunk.start}")
        records = chunk.records
        while records:
            while not partition.ready():
                await asyncio.sleep(_REFERENCE_WAIT_S)
            done = partition.apply(records)
            if done:
                self.position = records[done - 1].offset + 1
                records = records[done:]
                waiting_since = time.monotonic()
            else:
                if partition.waiting_for and time.monotonic() - waiting_since > DOUBT_S:
                    self._references.doubt(partition.waiting_for)
                await asyncio.sleep(_REFERENCE_WAIT_S)
        self.last_record_at = time.monotonic()

    async def checkpoint(self, executor: ThreadPoolExecutor, *, prove: bool = False) -> None:
        """Commit what changed since the last checkpoint; `prove` commits even if nothing did."""
        async with self.lock:
            urgent_since = self._ready_partition().urgent_since
            records = self._ready_partition().take() + self._heartbeat()
            position = self.position
            if not records and position == self.committed and not prove:
                return
            await self._commit(executor, records, position)
            if urgent_since is not None:
                self._metrics.loop_seconds.observe(max(0.0, time.time() - urgent_since / 1e6))

    async def _commit(
        self, executor: ThreadPoolExecutor, records: list[OutRecord], position: int
    ) -> None:
        """Commit in a thread; what is applied meanwhile rides in the next commit."""
        begun = self._commit_begun = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(executor, self.log.commit, records, position)
        finally:
            self._commit_begun = None
        now = time.monotonic()
        self._metrics.checkpoint_seconds.observe(now - begun)
        # A heartbeat alone is no progress: the watchdog looks at the position.
        if position != self.committed:
            self.committed, self._moved_at, self._still_since = position, now, now

    def saw_end(self, end: int | None) -> None:
        """Somebody saw the input reach up to `end`."""
        if end is not None and end > (self.end or 0):
            self.end = end

    def stands_still(self, limit_s: float) -> bool:
        """Whether records have waited for so long without any of them being committed.

        Waiting for a version that has not arrived, or for the broker, is no fault of this process.
        """
        now = time.monotonic()
        behind = self.end is not None and self.committed < self.end
        slow = self._commit_begun is not None and now - self._commit_begun > _SLOW_COMMIT_S
        if not behind or slow or self._ready_partition().waiting_for is not None:
            self._still_since = now
        return now - self._still_since > limit_s

    def probe_due(self, limit_s: float) -> bool:
        """Whether a record of our own should show that input still arrives here.

        What the consumer knows of the end stands still with the consumer, and the end may also be
        an offset that holds no record.
        """
        now = time.monotonic()
        if now - max(self._moved_at, self._probed_at) <= limit_s / 2:
            return False
        self._probed_at = now
        return True

    def to_announce(self) -> list[tuple[str, str, str]]:
        """Versions in force, when it is time to name them again in this partition's input."""
        now = time.monotonic()
        partition = self.partition
        if partition is None or now < self.announce_at or not partition.announce_due():
            return []
        self.announce_at = now + _ANNOUNCE_AGAIN_S
        return partition.in_force()

    def tick_due(self, now: int) -> bool:
        """Whether time-bound work waits although no record comes (now: µs of wall time).

        What is due follows from the versions in force: nothing is looked at before they are there.
        """
        partition = self._ready_partition()
        silent = time.monotonic() - self.last_record_at > 1.0
        due = partition.next_due() if silent and partition.at_hand() else None
        return due is not None and due <= now

    def status(self) -> dict[str, Any]:
        """What `sluice status` shows of the partition."""
        partition = self._ready_partition()
        state = partition.state
        return {
            "partition": self.number,
            "input": (self.place.source, self.place.partition),
            "position": self.position,
            "committed": self.committed,
            "epoch": self.log.marker.epoch,
            "time": state.header.time,
            "watermark": watermark(state.header.time),
            "lag": None if self.end is None else max(0, self.end - self.committed),
            "windows": len(state.windows),
            "tasks": len(state.tasks),
            "ledgers": len(state.ledgers),
            "leases": len(state.leases),
            "shares": len(state.shares or state.told),
            "sources": len(state.sources.rows),
            "cohorts": len(state.cohorts),
            "missing_numbers": state.sources.missing(),
            "incomplete": _worst(state.sources.incomplete()),
            "policies": state.header.policies,
            "price_book": state.header.price_book,
            "baseline": state.header.baseline,
            "waiting_for": partition.waiting_for,
            "counters": state.header.counters,
        }

    def _first_offset(self) -> int:
        while True:
            try:
                place = self.place
                return first_and_end(self._settings, place.source, place.partition)[0]
            except KafkaException as error:
                log.warning("partition %d: %s; waiting", self.number, error.args[0].str())
                if self.log.stopping.wait(_BROKER_WAIT_S):
                    raise Fenced("stopped while the broker was away") from error

    def _heartbeat(self) -> list[OutRecord]:
        now = time.monotonic()
        if now - self.last_heartbeat_at < self._settings.heartbeat_ms / 1000:
            return []
        self.last_heartbeat_at = now
        state = self._ready_partition().state
        fields = {
            "source_partition": self.number,
            "epoch": self._ready_partition().epoch,
            "sequence": self.position,
            "issued_at": time.time_ns() // 1000,
            "watermark": state.header.time,
            "of_tenants": self.place.of_tenants,
        }
        key = f"heartbeat|{self.number}".encode()
        value = encode("Heartbeat", fields)
        return [OutRecord(self._topics.control, self.number, key, value)]

    def _ready_partition(self) -> Governed:
        if self.partition is None:
            raise RuntimeError("restore() comes first")
        return self.partition


def _worst(
    incomplete: dict[str, tuple[int, int, int, int]],
) -> dict[str, tuple[int, int, int, int]]:
    """The producers that lack most; a status is to be read, not searched."""
    ordered = sorted(incomplete.items(), key=lambda item: (-sum(item[1][:2]), item[0]))
    return dict(ordered[:_SHOWN_SOURCES])
