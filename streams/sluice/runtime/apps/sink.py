"""The sink: everything the pipeline says, stored in ClickHouse once per identity.

Rows carry their identity and a version, so storing them again changes nothing. The positions are
stored in ClickHouse too, after the rows: a sink that restarts goes on where the data ends, and an
emptied ClickHouse is filled again from Kafka.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from faust.types import TP

from sluice.errors import OutsideError
from sluice.runtime.chunks import Chunk, ChunkConsumer, RawSchema
from sluice.runtime.metrics import Metrics, Sample
from sluice.runtime.owned import DOUBT_S
from sluice.runtime.references import References
from sluice.runtime.storing import Position, Rows, Storing
from sluice.runtime.worker import (
    EXIT_FAULT,
    WorkerApp,
    die,
    make_app,
    run,
    setup_logging,
    write_status,
)
from sluice.settings import Settings
from sluice.warehouse.writer import Writer
from sluice.wire.kafka import topics

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_WAIT_S = 0.02


class Storage:
    """Rows waiting to be stored and the positions they reach up to."""

    def __init__(self, settings: Settings, references: References) -> None:
        self._settings = settings
        self._references = references
        self._storing = Storing(topics(settings), references, settings.topic_generation)
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._writer = Writer(settings)
        self._rows: Rows = defaultdict(list)
        self._count = 0
        self._moved: set[TP] = set()
        self._lock = asyncio.Lock()
        self.positions: dict[TP, Position] = {}
        self.lags: dict[TP, int] = {}
        self.stored: dict[str, int] = defaultdict(int)
        self.metrics = Metrics(self._samples)
        self.waiting: str | None = None

    @property
    def stored_topics(self) -> list[str]:
        """Topics that are consumed."""
        return self._storing.stored_topics

    async def restore(self, owned: set[TP]) -> dict[TP, int | None]:
        """Positions as ClickHouse has them; None where nothing was ever stored."""
        self._rows, self._count, self._moved = defaultdict(list), 0, set()
        stored = await self._persist(self._writer.positions)
        self.positions = {
            tp: msgspec.json.decode(stored[tp.topic, tp.partition], type=Position)
            for tp in owned
            if (tp.topic, tp.partition) in stored
        }
        return {tp: p.next_offset if (p := self.positions.get(tp)) else None for tp in owned}

    async def add(self, tp: TP, chunk: Chunk) -> None:
        """Take a chunk; stores when enough rows wait."""
        position = self.positions.setdefault(tp, Position(chunk.start))
        records = chunk.records
        waiting_since = time.monotonic()
        while records:
            rows, done = self._storing.rows(tp.topic, tp.partition, records, position)
            for table, more in rows.items():
                self._rows[table] += more
                self._count += len(more)
            records = records[done:]
            if records:
                await self._wait_for_book(waiting_since)
        self._moved.add(tp)
        if self._count >= self._settings.sink_batch_rows:
            await self.store()

    async def _wait_for_book(self, since: float) -> None:
        wanted = self._storing.waiting_for
        if wanted is not None and time.monotonic() - since > DOUBT_S:
            self._references.doubt(wanted)
        await asyncio.sleep(_WAIT_S)

    async def store(self) -> None:
        """Store what waits, rows first, then positions; tries until ClickHouse takes it."""
        async with self._lock:
            rows, moved = self._rows, self._moved
            if not moved:
                return
            self._rows, self._count, self._moved = defaultdict(list), 0, set()
            reached = {
                (tp.topic, tp.partition): msgspec.json.encode(self.positions[tp]).decode()
                for tp in moved
            }
            for table, batch in rows.items():
                with self.metrics.store_seconds.time():
                    await self._persist(self._writer.insert_rows, table, batch)
                self.stored[table] += len(batch)
            await self._persist(self._writer.save_positions, reached)

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
            if reached < end and tp not in self._moved:
                # The rest may be transaction markers, which nobody delivers.
                reached = max(reached, await consumer.position(tp) or 0)
            self.lags[tp] = max(0, end - reached)

    async def _persist(self, call: Any, *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = await loop.run_in_executor(self._executor, call, *args)
            except OutsideError as error:
                if self.waiting is None:
                    log.warning("%s; waiting", error)
                self.waiting = str(error)
                await asyncio.sleep(_RETRY_S)
            else:
                self.waiting = None
                return result


class SinkConsumer(ChunkConsumer):
    """Takes positions from ClickHouse."""

    storage: Storage

    async def positions(self, owned: set[TP]) -> dict[TP, int]:
        """Stored positions, or the earliest offset; what expired unread is skipped."""
        stored = await self.storage.restore(owned)
        earliest = await self.earliest_offsets(*owned) if owned else {}
        return {tp: max(stored[tp] or 0, earliest[tp]) for tp in owned}

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Store what was taken before the partitions change hands."""
        await super().on_partitions_revoked(revoked)
        await self.storage.store()


def build(settings: Settings) -> WorkerApp:
    """The sink's Faust application."""
    references = References(settings)
    storage = Storage(settings, references)
    port = storage.metrics.serve(settings, 0)
    app = make_app(settings, "sink", "0", type("Consumer", (SinkConsumer,), {"storage": storage}))
    source = app.topic(
        *storage.stored_topics, schema=RawSchema(key_serializer="raw", value_serializer="raw")
    )

    @app.agent(source)
    async def store(stream: Any) -> None:
        async for event in stream.events():
            try:
                await storage.add(TP(event.message.topic, event.message.partition), event.value)
            except Exception as error:
                place = f"{event.message.topic}[{event.message.partition}]@{event.message.offset}"
                die(EXIT_FAULT, f"{place}: {error!r}")

    @app.task
    async def follow_references() -> None:
        references.start()

    @app.timer(settings.sink_batch_ms / 1000)
    async def flush() -> None:
        await storage.store()

    @app.timer(1.0)
    async def report() -> None:
        await storage.look_at_ends(app.consumer)
        positions = [(tp.topic, tp.partition, p.next_offset) for tp, p in storage.positions.items()]
        write_status(settings.dir, "sink", {"positions": sorted(positions),
                                            "waiting": storage.waiting,
                                            "metrics_port": port,
                                            "at": time.time()})  # fmt: skip

    return app


def main(settings: Settings) -> None:
    """Run the sink until it is told to stop."""
    setup_logging(settings)
    asyncio.set_event_loop(asyncio.new_event_loop())
    run(build(settings), settings)
