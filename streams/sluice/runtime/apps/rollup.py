"""The rollup: sums that span tenants, from the shares that each usage partition publishes.

Today these are baselines: once an hour has closed, what its cohorts cost enters a new version,
which is published and switched on in every usage partition. The partials topic is the state: it is
read from its beginning at every start. It has one partition, so a second rollup only stands by.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from faust.types import TP

from sluice.metering.refresh import Refresh
from sluice.runtime.baselining import published_baseline, take
from sluice.runtime.chunks import Chunk, ChunkConsumer, RawSchema
from sluice.runtime.metrics import Metrics, Sample
from sluice.runtime.patience import Patience
from sluice.runtime.publish import publish_baseline, retire_baselines
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
from sluice.wire.kafka import consumer_config, topics

log = logging.getLogger(__name__)

_CHECK_S = 5.0


class Rollup:
    """What was read of the partials topic, and the baseline in force."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._patience = Patience()
        self._refresh: Refresh | None = None
        self._end = 0
        self._position = 0

    async def begin(self, first: int) -> None:
        """Start over at the topic's first offset, with the published baseline in force."""
        self._refresh = None
        before = await self._patience.call(published_baseline, self._settings)
        self._end = await self._patience.call(_end_of_partials, self._settings)
        self._position = first
        if before is not None:  # a predecessor may have died before every partition had it
            await self._patience.call(publish_baseline, self._settings, before)
        self._refresh = Refresh(before)

    def add(self, chunk: Chunk) -> None:
        """Take records of the partials topic."""
        if self._refresh is None:
            return
        for record in chunk.records:
            take(self._refresh, record.key, record.value)
        self._position = chunk.next_offset

    async def refresh(self) -> None:
        """Publish a new baseline where an hour has closed since the last one."""
        refresh = self._refresh
        if refresh is None or self._position < self._end:
            return
        if refresh.due() is None:
            return
        # A person may have published one meanwhile: the next moves on from there.
        refresh.before = await self._patience.call(published_baseline, self._settings)
        due = refresh.due()
        baseline = None if due is None else refresh.compute(due)
        if baseline is not None:
            log.info("baseline %s: %d norms", baseline.version, len(baseline.norms))
            await self._patience.call(publish_baseline, self._settings, baseline)
            await self._patience.call(retire_baselines, self._settings, baseline)

    def samples(self) -> Iterator[Sample]:
        """What Prometheus shows."""
        yield "sluice_waiting", ("rollup",), float(self._patience.waiting is not None)

    def status(self) -> dict[str, Any]:
        """What `sluice status` shows."""
        before = self._refresh.before if self._refresh else None
        return {
            "position": self._position,
            "baseline": before.version if before else None,
            "norms": len(before.norms) if before else 0,
            "waiting": self._patience.waiting,
        }


class RollupConsumer(ChunkConsumer):
    """Reads the topic from its beginning whenever it is assigned."""

    rollup: Rollup

    async def positions(self, owned: set[TP]) -> dict[TP, int]:
        """The first offset of the topic."""
        earliest = await self.earliest_offsets(*owned) if owned else {}
        for first in earliest.values():
            await self.rollup.begin(first)
        return dict(earliest)


def build(settings: Settings) -> WorkerApp:
    """The rollup's Faust application."""
    rollup = Rollup(settings)
    port = Metrics(rollup.samples).serve(settings, 1)
    consumer = type("Consumer", (RollupConsumer,), {"rollup": rollup})
    app = make_app(settings, "rollup", "0", consumer)
    source = app.topic(
        topics(settings).partials, schema=RawSchema(key_serializer="raw", value_serializer="raw")
    )

    @app.agent(source)
    async def add(stream: Any) -> None:
        async for event in stream.events():
            try:
                rollup.add(event.value)
            except Exception as error:
                die(EXIT_FAULT, f"partials@{event.message.offset}: {error!r}")

    @app.timer(_CHECK_S)
    async def refresh() -> None:
        await rollup.refresh()

    @app.timer(1.0)
    async def report() -> None:
        write_status(settings.dir, "rollup", {**rollup.status(), "metrics_port": port})

    return app


def main(settings: Settings) -> None:
    """Run the rollup until it is told to stop."""
    setup_logging(settings)
    asyncio.set_event_loop(asyncio.new_event_loop())
    run(build(settings), settings)


def _end_of_partials(settings: Settings) -> int:
    consumer = Consumer(consumer_config(settings))
    try:
        tp = TopicPartition(topics(settings).partials, 0)
        return int(consumer.get_watermark_offsets(tp, timeout=10)[1])
    finally:
        consumer.close()
