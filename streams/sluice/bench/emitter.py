"""What emitting costs a gateway: one process on one core, with its write-ahead log and a broker."""

from __future__ import annotations

from sluice.bench.figures import Figure, Report, machine
from sluice.bench.ground import Ground
from sluice.errors import SluiceError
from sluice.local.jars import kafka_version
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records

PER_S = 25_000


def run(ground: Ground, events: int, seed: int) -> Report:
    """Emit `events` of the full profile; raises SluiceError when one was not acknowledged."""
    with ground.pipeline("emit") as pipeline:
        ground.tell(f"emitting {events:,} events")
        found = ground.tool("emit", ground.bootstrap, topics(pipeline.settings).usage,
                            str(events), str(seed))  # fmt: skip
        sizes = [len(record.value or b"") for record in committed_records(
            pipeline.settings, topics(pipeline.settings).usage) if record.key]  # fmt: skip
    if len(sizes) != events:
        raise SluiceError(f"the topic holds {len(sizes)} events instead of {events}")
    if found["acknowledged"] != events:
        raise SluiceError(f"{found['acknowledged']} of {events} events were acknowledged")
    figures = [
        Figure("per_cpu_s", round(events / found["cpu_s"]), "events/s", PER_S, at_least=True),
        Figure("per_wall_s", round(events / found["wall_s"]), "events/s"),
        Figure("emit_p50", found["p50_us"], "us"),
        Figure("emit_p99", found["p99_us"], "us"),
        Figure("emit_max", found["max_us"], "us"),
        Figure("value_bytes_per_event", round(sum(sizes) / events, 1), "B"),
        Figure("wal_bytes_per_event", found["wal_bytes"], "B"),
    ]
    settings = {"events": events, "seed": seed, "cores": 1, "fsync": "interval",
                "kafka": kafka_version()}  # fmt: skip
    return Report("emitter", machine(), settings, figures)
