"""The meter: usage in, windows, budgets and decisions out, each record applied exactly once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from faust.types import TP

from sluice.errors import ConfigError
from sluice.runtime.chunks import ChunkConsumer, RawSchema
from sluice.runtime.metrics import Metrics, Sample, partition_samples
from sluice.runtime.owned import OwnedPartition
from sluice.runtime.owner import Owner
from sluice.runtime.references import References
from sluice.runtime.warm import warm_up
from sluice.runtime.worker import (
    EXIT_CONFIG,
    EXIT_FAULT,
    EXIT_FENCED,
    EXIT_STUCK,
    WorkerApp,
    die,
    make_app,
    rest_collector,
    run,
    setup_logging,
    write_status,
)
from sluice.settings import Settings
from sluice.wire.codec import encode
from sluice.wire.kafka import producer_config, topics

_FIRST_METER = 2  # of the ports for metrics; sink and rollup come first


class MeterConsumer(ChunkConsumer):
    """Takes positions from the checkpoint, and checkpoints before partitions change hands."""

    owner: Owner

    async def positions(self, owned: set[TP]) -> dict[TP, int]:
        """Restore or keep each partition; the checkpoint says where it goes on."""
        try:
            found = await self.owner.assign({tp.partition for tp in owned})
        except ConfigError as error:
            die(EXIT_CONFIG, str(error))
        except Exception as error:  # a half-taken assignment must not go on
            die(EXIT_FAULT, f"taking over {sorted(tp.partition for tp in owned)}: {error!r}")
        return {tp: found[tp.partition] for tp in owned}

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Apply what was delivered, then commit it."""
        await super().on_partitions_revoked(revoked)
        await self.owner.checkpoint_all()


def build(settings: Settings, slot: str) -> WorkerApp:
    """The meter's Faust application for one worker slot."""
    references = References(settings)
    names = topics(settings)
    metrics = Metrics(lambda: _samples(owner, names.usage))
    owner = Owner(
        settings, references, metrics,
        on_fenced=lambda reason: die(EXIT_FENCED, reason),
        on_fault=lambda reason: die(EXIT_FAULT, reason),
    )  # fmt: skip
    consumer = type("Consumer", (MeterConsumer,), {"owner": owner})
    app = make_app(settings, "meter", slot, consumer)
    source = app.topic(
        names.usage, schema=RawSchema(key_serializer="raw", value_serializer="raw"),
        partitions=settings.partitions,
    )  # fmt: skip
    port = metrics.serve(settings, _FIRST_METER + (int(slot) if slot.isdecimal() else 0))
    ticks = Producer(producer_config(settings, **{"linger.ms": 0}))

    @app.agent(source)
    async def meter(stream: Any) -> None:
        async for event in stream.events():
            try:
                await owner.apply(event.message.partition, event.value)
            except Exception as error:  # a broken invariant: the successor starts from the marker
                die(
                    EXIT_FAULT,
                    f"usage[{event.message.partition}]@{event.message.offset}: {error!r}",
                )

    @app.task
    async def follow_references() -> None:
        references.start()

    @app.timer(settings.checkpoint_ms / 1000)
    async def checkpoint() -> None:
        await owner.checkpoint_all()

    @app.timer(1.0)
    async def tick() -> None:
        status = {"partitions": owner.statuses(), "metrics_port": port}
        write_status(settings.dir, f"meter-{slot}", status)
        _append_ticks(ticks, owner, names.usage, settings.watchdog_s)
        for number, owned in owner.owned.items():
            owned.saw_end(app.consumer.highwater(TP(names.usage, number)))
            if owned.partition is not None and owned.stands_still(settings.watchdog_s):
                die(EXIT_STUCK, f"partition {number} stands still at {owned.committed}")

    return app


def _samples(owner: Owner, topic: str) -> Iterator[Sample]:
    for status in owner.statuses():
        yield from partition_samples(status, topic, time.time())


def _append_ticks(producer: Producer, owner: Owner, topic: str, watchdog_s: float) -> None:
    """Move the time of silent partitions that have work waiting: time is what the input says.

    A partition that has been silent for long gets one too, which must come back to this process.
    """
    producer.poll(0)
    if len(producer):
        return  # the broker is away; more ticks would only pile up
    now = time.time_ns() // 1000
    for number, owned in owner.owned.items():
        if owned.partition is not None and (owned.tick_due(now) or owned.probe_due(watchdog_s)):
            producer.produce(
                topic, encode("Tick", {}), None, partition=number, on_delivery=_seen_by(owned)
            )
        for kind, ident, version in owned.to_announce():
            fields = {"kind": kind, "id": ident, "version": version}
            producer.produce(topic, encode("Activate", fields), None, partition=number)
    producer.poll(0)


def _seen_by(owned: OwnedPartition) -> Callable[[KafkaError | None, Message], None]:
    def delivered(error: KafkaError | None, message: Message) -> None:
        offset = message.offset()
        if error is None and offset is not None:
            owned.saw_end(offset + 1)

    return delivered


def check_slot(settings: Settings, slot: str) -> None:
    """ConfigError for a numbered slot that no partition would be left for."""
    if slot.isdecimal() and int(slot) >= settings.partitions:
        raise ConfigError(
            f"meter slot {slot} would be worker {int(slot) + 1}, but the usage topic has "
            f"{settings.partitions} partitions and a partition has one worker; run slots 0 to "
            f"{settings.partitions - 1}, or start a topic generation with more SLUICE_PARTITIONS"
        )


def main(settings: Settings, slot: str) -> None:
    """Run one meter worker until it is told to stop; ConfigError for one worker too many."""
    check_slot(settings, slot)
    setup_logging(settings)
    warm_up()
    rest_collector()
    asyncio.set_event_loop(asyncio.new_event_loop())
    Path(settings.dir).mkdir(parents=True, exist_ok=True)
    run(build(settings, slot), settings)
