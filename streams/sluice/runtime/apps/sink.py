"""The sink: everything the pipeline says, stored in ClickHouse once per identity.

Rows carry their identity and a version, so storing them again changes nothing. The positions are
stored in ClickHouse too, after the rows: a sink that restarts goes on where the data ends, and an
emptied ClickHouse is filled again from Kafka.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from faust.types import TP

from sluice.errors import SluiceError
from sluice.runtime.chunks import ChunkConsumer, RawSchema
from sluice.runtime.references import References
from sluice.runtime.storage import Storage
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
    storage = Storage(settings, references, Writer(settings))
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
        try:
            await storage.store()
        except SluiceError as error:
            die(EXIT_FAULT, f"a batch was not stored: {error!r}")

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
