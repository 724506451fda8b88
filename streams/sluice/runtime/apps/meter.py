"""The meter: usage in, windows, budgets and decisions out, each record applied exactly once."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from sluice.errors import ConfigError
from sluice.runtime.chunks import RawSchema
from sluice.runtime.metrics import Metrics
from sluice.runtime.places import usage_place
from sluice.runtime.references import References
from sluice.runtime.upkeep import OwnerConsumer, Upkeep, apply, make_owner, samples
from sluice.runtime.warm import warm_up
from sluice.runtime.worker import (
    WorkerApp,
    make_app,
    rest_collector,
    run,
    setup_logging,
    write_status,
)
from sluice.settings import Settings
from sluice.wire.kafka import topics

_FIRST_METER = 2  # of the ports for metrics; sink and rollup come first


def build(settings: Settings, slot: str) -> WorkerApp:
    """The meter's Faust application for one worker slot."""
    references = References(settings)
    names = topics(settings)
    metrics = Metrics(lambda: samples(owner))
    owner = make_owner(settings, partial(usage_place, names), references, metrics)
    upkeep = Upkeep(settings, owner)
    consumer = type("Consumer", (OwnerConsumer,), {"owner": owner})
    app = make_app(settings, "meter", slot, consumer)
    source = app.topic(
        names.usage, schema=RawSchema(key_serializer="raw", value_serializer="raw"),
        partitions=settings.partitions,
    )  # fmt: skip
    port = metrics.serve(settings, _FIRST_METER + (int(slot) if slot.isdecimal() else 0))

    @app.agent(source)
    async def meter(stream: Any) -> None:
        async for event in stream.events():
            await apply(owner, event.message)

    upkeep.keep(app, references)

    @app.timer(1.0)
    async def tick() -> None:
        status = {"partitions": owner.statuses(), "metrics_port": port}
        write_status(settings.dir, f"meter-{slot}", status)
        upkeep.look(app.consumer.highwater)

    return app


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
