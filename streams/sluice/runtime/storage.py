"""What the sink holds between Kafka and ClickHouse: bounded, in order, rows before positions.

One batch is on its way to ClickHouse while the next one fills. When that is full too, nothing more
is taken: the consumer stops fetching, and Kafka keeps the backlog until ClickHouse is back.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from faust.types import TP

from sluice.errors import SluiceError
from sluice.runtime.chunks import Chunk
from sluice.runtime.governance import ReferenceStore
from sluice.runtime.metrics import Metrics, Sample
from sluice.runtime.owned import DOUBT_S
from sluice.runtime.patience import Patience
from sluice.runtime.storing import Position
from sluice.runtime.storing_columns import ColumnStoring, Taken, nothing_taken
from sluice.runtime.usage_columns import Arrays
from sluice.settings import Settings
from sluice.wire.kafka import topics

_WAIT_S = 0.02


class Doubtful(ReferenceStore, Protocol):
    """Versions, of which one that does not arrive can be doubted."""

    def doubt(self, name: tuple[str, str, str]) -> None:
        """Ask for a verdict on a version that does not arrive."""


class Warehouse(Protocol):
    """Where batches go; raises OutsideError when the same call may succeed later."""

    def insert_batch(
        self, table: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Arrays]
    ) -> int:
        """Store one batch of a table."""

    def positions(self) -> dict[tuple[str, int], str]:
        """Stored state per (topic, partition)."""

    def save_positions(self, states: Mapping[tuple[str, int], str]) -> None:
        """Store the state per (topic, partition)."""


class _Batch:
    """What waits to be stored, and the partitions that it moves on."""

    def __init__(self) -> None:
        self.taken: Taken = nothing_taken()
        self.rows = 0
        self.bytes = 0
        self.moved: set[TP] = set()

    def add(self, tp: TP, more: Taken, size: int) -> None:
        """Add what records of `size` bytes store."""
        self.taken.add(more)
        self.rows += more.size
        self.bytes += size
        self.moved.add(tp)


class Storage:
    """Rows waiting to be stored and the positions they reach up to."""

    def __init__(self, settings: Settings, references: Doubtful, writer: Warehouse) -> None:
        self._settings = settings
        self._references = references
        self._storing = ColumnStoring(topics(settings), references, settings.topic_generation)
        self._patience = Patience()
        self._writer = writer
        self._batch = _Batch()
        self._lock = asyncio.Lock()
        self._on_its_way: asyncio.Task[None] | None = None
        self._lost: BaseException | None = None
        self.positions: dict[TP, Position] = {}
        self.lags: dict[TP, int] = {}
        self.stored: dict[str, int] = defaultdict(int)
        self.metrics = Metrics(self._samples)

    @property
    def waiting(self) -> str | None:
        """Why ClickHouse is waited for, or None."""
        return self._patience.waiting

    @property
    def stored_topics(self) -> list[str]:
        """Topics that are consumed."""
        return self._storing.stored_topics

    async def restore(self, owned: set[TP]) -> dict[TP, int | None]:
        """Positions as ClickHouse has them; None where nothing was ever stored."""
        async with self._lock:  # what is on its way has arrived
            self._batch = _Batch()
            stored = await self._patience.call(self._writer.positions)
        self.positions = {
            tp: msgspec.json.decode(stored[tp.topic, tp.partition], type=Position)
            for tp in owned
            if (tp.topic, tp.partition) in stored
        }
        return {tp: p.next_offset if (p := self.positions.get(tp)) else None for tp in owned}

    async def add(self, tp: TP, chunk: Chunk) -> None:
        """Take a chunk; returns when there is room for another one."""
        position = self.positions.setdefault(tp, Position(chunk.start))
        records = chunk.records
        waiting_since = time.monotonic()
        while records:
            taken, done = self._storing.take(tp.topic, tp.partition, records, position)
            self._batch.add(tp, taken, _size(records[:done]))
            records = records[done:]
            if records:
                await self._wait_for_book(waiting_since)
        if self._is_full():
            await self._send()

    def _is_full(self) -> bool:
        batch = self._batch
        return (
            batch.rows >= self._settings.sink_batch_rows
            or batch.bytes >= self._settings.sink_batch_bytes
        )

    async def _send(self) -> None:
        """Store in the background, once the batch before is stored."""
        if self._on_its_way is not None:
            await self._on_its_way
        self._on_its_way = asyncio.create_task(self.store())
        await asyncio.sleep(0)  # the task has taken the batch, or waits for the timer's

    async def _wait_for_book(self, since: float) -> None:
        wanted = self._storing.waiting_for
        if wanted is not None and time.monotonic() - since > DOUBT_S:
            self._references.doubt(wanted)
        await asyncio.sleep(_WAIT_S)

    async def store(self) -> None:
        """Store what waits, rows first, then positions; tries until ClickHouse takes it.

        After a batch that could not be stored nothing is: a later position would pass it over.
        """
        async with self._lock:
            if self._lost is not None:
                raise SluiceError("an earlier batch was not stored") from self._lost
            batch, self._batch = self._batch, _Batch()
            try:
                await self._store_batch(batch)
            except BaseException as error:
                self._lost = error
                raise

    async def _store_batch(self, batch: _Batch) -> None:
        if not batch.moved:
            return
        reached = {
            (tp.topic, tp.partition): msgspec.json.encode(self.positions[tp]).decode()
            for tp in batch.moved
        }
        for table in dict.fromkeys((*batch.taken.rows, *batch.taken.columns)):
            await self._store_table(table, batch.taken)
        await self._patience.call(self._writer.save_positions, reached)

    async def _store_table(self, table: str, taken: Taken) -> None:
        rows, columns = taken.rows.pop(table, []), taken.columns.pop(table, [])
        if not rows and not columns:
            return
        with self.metrics.store_seconds.time():
            self.stored[table] += await self._patience.call(
                self._writer.insert_batch, table, rows, columns
            )

    def _samples(self) -> Iterator[Sample]:
        for table, rows in list(self.stored.items()):
            yield "sluice_stored_rows_total", (table,), rows
        for tp, lag in list(self.lags.items()):
            yield "sluice_lag_records", (tp.topic, str(tp.partition)), lag
        yield "sluice_waiting", ("sink",), float(self.waiting is not None)

    async def look_at_ends(self, consumer: Any) -> None:
        """Find out how many records of each partition are not stored yet."""
        for tp, position in list(self.positions.items()):
            end = consumer.highwater(tp) or 0
            reached = position.next_offset
            if reached < end and tp not in self._batch.moved:
                # The rest may be transaction markers, which nobody delivers.
                reached = max(reached, await consumer.position(tp) or 0)
            self.lags[tp] = max(0, end - reached)


def _size(records: Sequence[Any]) -> int:
    return sum(len(record.value or b"") for record in records)
