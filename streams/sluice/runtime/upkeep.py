"""What keeps a process that owns partitions going: assignment, ticks, announcements, watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from faust.types import TP

from sluice.errors import ConfigError
from sluice.runtime.chunks import ChunkConsumer
from sluice.runtime.metrics import Metrics, Sample, partition_samples
from sluice.runtime.owned import OwnedPartition
from sluice.runtime.owner import Owner
from sluice.runtime.places import Place
from sluice.runtime.references import References
from sluice.runtime.worker import EXIT_CONFIG, EXIT_FAULT, EXIT_FENCED, EXIT_STUCK, WorkerApp, die
from sluice.settings import Settings
from sluice.wire.codec import encode
from sluice.wire.kafka import producer_config


def make_owner(
    settings: Settings, place_of: Callable[[int], Place], references: References, metrics: Metrics
) -> Owner:
    """An owner that ends the process where it must not go on."""
    return Owner(
        settings, place_of, references, metrics,
        on_fenced=lambda reason: die(EXIT_FENCED, reason),
        on_fault=lambda reason: die(EXIT_FAULT, reason),
    )  # fmt: skip


class OwnerConsumer(ChunkConsumer):
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


async def apply(owner: Owner, message: Any) -> None:
    """Apply a chunk; a broken invariant ends the process, its successor starts from the marker."""
    try:
        await owner.apply(message.partition, message.value)
    except Exception as error:
        die(EXIT_FAULT, f"{message.topic}[{message.partition}]@{message.offset}: {error!r}")


def samples(owner: Owner) -> Iterator[Sample]:
    """What Prometheus shows of the owned partitions."""
    for status in owner.statuses():
        yield from partition_samples(status, status["input"], time.time())


class Upkeep:
    """Keeps time moving in owned partitions, and ends a process that stands still."""

    def __init__(self, settings: Settings, owner: Owner) -> None:
        self._owner = owner
        self._checkpoint_s = settings.checkpoint_ms / 1000
        self._watchdog_s = settings.watchdog_s
        self.producer = Producer(producer_config(settings, **{"linger.ms": 0}))

    def keep(self, app: WorkerApp, references: References) -> None:
        """Follow published versions, and checkpoint what no decision hurries."""

        async def follow_references() -> None:
            references.start()

        async def checkpoint() -> None:
            await self._owner.checkpoint_all()

        app.task(follow_references)
        app.timer(self._checkpoint_s)(checkpoint)

    def look(self, highwater: Callable[[TP], int | None]) -> None:
        """Append what is due, and look how far each partition is."""
        self._append_ticks()
        for number, owned in self._owner.owned.items():
            owned.saw_end(highwater(TP(owned.place.source, number)))
            if owned.partition is not None and owned.stands_still(self._watchdog_s):
                die(EXIT_STUCK, f"partition {owned.number} stands still at {owned.committed}")

    def away(self) -> bool:
        """Whether the broker took nothing of late; more records would only pile up."""
        self.producer.poll(0)
        return len(self.producer) > 0

    def _append_ticks(self) -> None:
        """Move the time of silent partitions that have work waiting: time is what the input says.

        A partition that has been silent for long gets one too, which must come back here.
        """
        if self.away():
            return
        now = time.time_ns() // 1000
        for number, owned in self._owner.owned.items():
            to = owned.place.source
            begun = owned.partition is not None
            if begun and (owned.tick_due(now) or owned.probe_due(self._watchdog_s)):
                tick = encode("Tick", {})
                self.producer.produce(to, tick, None, number, on_delivery=_seen_by(owned))
            for kind, ident, version in owned.to_announce():
                fields = {"kind": kind, "id": ident, "version": version}
                self.producer.produce(to, encode("Activate", fields), None, number)
        self.producer.poll(0)


def _seen_by(owned: OwnedPartition) -> Callable[[KafkaError | None, Message], None]:
    def delivered(error: KafkaError | None, message: Message) -> None:
        offset = message.offset()
        if error is None and offset is not None:
            owned.saw_end(offset + 1)

    return delivered
