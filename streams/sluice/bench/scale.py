"""What a second meter adds on this machine, where the broker takes a part of the same cores."""

from __future__ import annotations

import os
from pathlib import Path

from sluice.bench.drain import Drain, drain
from sluice.bench.figures import Figure, Report, machine
from sluice.bench.ground import Ground
from sluice.bench.workload import Mix, load
from sluice.local.jars import kafka_version


def run(ground: Ground, events: int, workers: int, seed: int, cache: Path) -> Report:
    """The same backlog with one meter and with `workers`."""
    work = load(Mix(events, "full", seed), cache, ground.tell)
    drains: list[tuple[int, Drain]] = []
    for meters in (1, workers):
        ground.tell(f"{meters} of {workers} meters: {events:,} events")
        with ground.pipeline(f"scale-{meters}") as pipeline:
            drains.append((meters, drain(pipeline, work, meters=meters)))
    (_, one), (_, many) = drains
    figures = [Figure(f"meters_{meters}_per_wall_s", round(done.per_s), "events/s")
               for meters, done in drains]  # fmt: skip
    figures += [Figure(f"meters_{meters}_per_cpu_s", round(done.per_cpu_s), "events/s")
                for meters, done in drains]  # fmt: skip
    figures += [
        Figure("speed_up", round(many.per_s / one.per_s, 2), "times"),
        Figure("cores_busy_with_meters", round(many.cpu_s / many.wall_s, 2), "cores"),
    ]
    settings = {"events": events, "workers": workers, "seed": seed, "partitions": 4,
                "usable_cores": os.cpu_count(),
                "kafka": kafka_version()}  # fmt: skip
    details = [{"meters": meters, **done._asdict()} for meters, done in drains]
    return Report("scale", machine(), settings, figures, details)
