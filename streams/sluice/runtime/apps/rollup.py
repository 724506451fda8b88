"""The rollup: sums that span tenants, from the shares that each usage partition publishes.

These are budgets and baselines. Budgets have shares and reports of holders on the leases topic, and
a checkpointed state like a meter's. Of baselines the partials topic is the state, read from its
beginning at every start: once an hour has closed, what its cohorts cost enters a new version, which
is published and switched on. Both topics have one partition, so a second rollup only stands by.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from faust.types import TP

from sluice.metering.refresh import Refresh
from sluice.runtime.across import Across
from sluice.runtime.baselining import published_baseline, take
from sluice.runtime.chunks import Chunk, RawSchema
from sluice.runtime.metrics import Metrics, Sample
from sluice.runtime.owner import Owner
from sluice.runtime.patience import Patience
from sluice.runtime.places import across_place
from sluice.runtime.publish import publish_baseline, retire_baselines
from sluice.runtime.questions import Questions
from sluice.runtime.references import References
from sluice.runtime.upkeep import OwnerConsumer, Upkeep, apply, make_owner, samples
from sluice.runtime.worker import (
    EXIT_FAULT,
    WorkerApp,
    die,
    make_app,
    rest_collector,
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

    def rest(self) -> None:
        """Make no more baselines: somebody else does."""
        self._refresh = None

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


class RollupConsumer(OwnerConsumer):
    """Goes on with budgets at their checkpoint; reads shares of baselines from the beginning."""

    rollup: Rollup
    leases: str

    async def positions(self, owned: set[TP]) -> dict[TP, int]:
        """The position of each input; without any, this process stands by."""
        leases = {tp for tp in owned if tp.topic == self.leases}
        found = await super().positions(leases)
        partials = owned - leases
        earliest = await self.earliest_offsets(*partials) if partials else {}
        if not earliest:
            self.rollup.rest()
        for first in earliest.values():
            await self.rollup.begin(first)
        return found | dict(earliest)


def build(settings: Settings, slot: str) -> WorkerApp:
    """The rollup's Faust application for one worker slot."""
    references, names = References(settings), topics(settings)
    rollup = Rollup(settings)
    metrics = Metrics(lambda: chain(rollup.samples(), samples(owner)))
    owner = make_owner(settings, partial(across_place, names), references, metrics)
    upkeep = Upkeep(settings, owner)
    questions = Questions(names.usage, upkeep.producer)
    port = metrics.serve(settings, 1)
    members = {"owner": owner, "rollup": rollup, "leases": names.leases}
    app = make_app(settings, "rollup", slot, type("Consumer", (RollupConsumer,), members))
    schema = RawSchema(key_serializer="raw", value_serializer="raw")

    @app.agent(app.topic(names.partials, schema=schema))
    async def add(stream: Any) -> None:
        async for event in stream.events():
            try:
                rollup.add(event.value)
            except Exception as error:
                die(EXIT_FAULT, f"partials@{event.message.offset}: {error!r}")

    @app.agent(app.topic(names.leases, schema=schema))
    async def govern(stream: Any) -> None:
        async for event in stream.events():
            await apply(owner, event.message)

    upkeep.keep(app, references)

    @app.timer(_CHECK_S)
    async def refresh() -> None:
        await rollup.refresh()

    @app.timer(1.0)
    async def tick() -> None:
        status = {**rollup.status(), "partitions": owner.statuses(), "metrics_port": port}
        write_status(settings.dir, "rollup" if slot == "0" else f"rollup-{slot}", status)
        upkeep.look(app.consumer.highwater)
        if not upkeep.away():
            _ask(owner, questions)

    return app


def _ask(owner: Owner, questions: Questions) -> None:
    for owned in owner.owned.values():
        if isinstance(owned.partition, Across) and owned.partition.at_hand():
            questions.ask(owned.partition)


def main(settings: Settings, slot: str) -> None:
    """Run one rollup worker until it is told to stop."""
    setup_logging(settings)
    rest_collector()
    asyncio.set_event_loop(asyncio.new_event_loop())
    Path(settings.dir).mkdir(parents=True, exist_ok=True)
    run(build(settings, slot), settings)


def _end_of_partials(settings: Settings) -> int:
    consumer = Consumer(consumer_config(settings))
    try:
        tp = TopicPartition(topics(settings).partials, 0)
        return int(consumer.get_watermark_offsets(tp, timeout=10)[1])
    finally:
        consumer.close()
