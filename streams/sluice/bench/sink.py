"""How fast the sink stores a backlog of usage and window rows in the embedded ClickHouse."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import psutil

from sluice.bench.drain import drain, end_offsets, passed
from sluice.bench.figures import Figure, Report, machine
from sluice.bench.ground import Ground, Worker, until
from sluice.bench.workload import Mix, Workload, load
from sluice.errors import SluiceError
from sluice.local.jars import kafka_version
from sluice.settings import Settings
from sluice.warehouse.client import query_text
from sluice.warehouse.migrations import migrate
from sluice.warehouse.node import ClickHouseNode
from sluice.wire.kafka import topics

EVENTS_PER_S = 50_000

_EVENT_SUMS = """
SELECT count(), sum(input_tokens), sum(output_tokens), sum(cost_pusd) FROM usage_events FINAL
"""
_WINDOW_SUMS = """
SELECT sum(events), sum(input_tokens), sum(output_tokens), sum(cost_pusd) FROM usage_windows FINAL
"""


class Instant(NamedTuple):
    """How far the sink was, and what it and ClickHouse had used by then."""

    at_s: float
    usage: int
    rows: int
    sink_cpu_s: float
    clickhouse_cpu_s: float


def run(ground: Ground, events: int, seed: int, cache: Path) -> Report:
    """Meter the workload while a started sink is held, then let it store everything.

    Its start is not part of the figures. Raises SluiceError when the stored sums are wrong.
    """
    work = load(Mix(events, "full", seed), cache, ground.tell)
    with (
        ClickHouseNode(ground.folder / "clickhouse") as node,
        ground.pipeline("sink", clickhouse_url=node.settings.clickhouse_url) as pipeline,
    ):
        migrate(pipeline.settings)
        sink = pipeline.start("sink", "sink")
        until(lambda: bool(_positions(sink)), "the sink to start")
        sink.hold()
        ground.tell(f"one meter works off {events:,} events, so that there are window rows")
        drain(pipeline, work)
        ground.tell("the sink stores them")
        first, last = _store(pipeline.settings, sink, node, work)
        peak_rss = sink.peak_rss_bytes()
        _check(pipeline.settings, work)
    settings = {"events": events, "seed": seed, "partitions": 4, "kafka": kafka_version()}
    details = [{**last._asdict(), "at_s": round(last.at_s - first.at_s, 2)}]
    return Report("sink", machine(), settings, _figures(first, last, peak_rss), details)


def _figures(first: Instant, last: Instant, peak_rss_bytes: int) -> list[Figure]:
    usage, rows = last.usage - first.usage, last.rows - first.rows
    wall_s, sink_s = last.at_s - first.at_s, last.sink_cpu_s - first.sink_cpu_s
    server_s = last.clickhouse_cpu_s - first.clickhouse_cpu_s
    return [
        Figure("events_per_wall_s", round(usage / wall_s), "events/s", EVENTS_PER_S, at_least=True),
        Figure("rows_per_wall_s", round(rows / wall_s), "rows/s"),
        Figure("events_per_sink_cpu_s", round(usage / sink_s), "events/s"),
        Figure("rows_per_sink_cpu_s", round(rows / sink_s), "rows/s"),
        Figure("rows_per_clickhouse_cpu_s", round(rows / server_s), "rows/s"),
        Figure("peak_rss", round(peak_rss_bytes / 2**20), "MiB"),
    ]


def _store(
    settings: Settings, sink: Worker, node: ClickHouseNode, work: Workload
) -> tuple[Instant, Instant]:
    """The instants at which a held sink goes on and at which everything is stored."""
    usage = topics(settings).usage
    ends = {(usage, number): end for number, end in end_offsets(settings, usage).items()}
    server = psutil.Process(node.pid)
    first = _instant(sink, server, usage)
    sink.go()
    until(lambda: passed(_positions(sink), ends), "the sink to take the backlog")
    until(
        lambda: _stored(settings) == (len(work), len(work)),
        "the sink to store all of it",
        poll_s=0.2,
    )
    return first, _instant(sink, server, usage)


def _positions(sink: Worker) -> dict[tuple[str, int], int]:
    return {(topic, number): at for topic, number, at in sink.status().get("positions", [])}


def _instant(sink: Worker, server: psutil.Process, usage: str) -> Instant:
    positions, times = _positions(sink), server.cpu_times()
    return Instant(
        time.monotonic(), sum(at for (topic, _), at in positions.items() if topic == usage),
        sum(positions.values()), sink.cpu_s(), float(times.user + times.system),
    )  # fmt: skip


def _stored(settings: Settings) -> tuple[int, int]:
    """Events as they are stored one by one, and as the window rows count them."""
    singly = _numbers(settings, "SELECT count() FROM usage_events")
    summed = _numbers(settings, "SELECT sum(events) FROM usage_windows FINAL")
    return singly[0], summed[0]


def _check(settings: Settings, work: Workload) -> None:
    answer = work.answer(work.occurred_at(0)).values()
    wanted = [sum(sums.events for sums in answer), sum(sums.input_tokens for sums in answer),
              sum(sums.output_tokens for sums in answer),
              sum(sums.cost_pusd for sums in answer)]  # fmt: skip
    for query in (_EVENT_SUMS, _WINDOW_SUMS):
        found = _numbers(settings, query)
        if found != wanted:
            raise SluiceError(f"{query} gives {found} instead of {wanted}")


def _numbers(settings: Settings, query: str) -> list[int]:
    text = query_text(settings, query, "TSV").decode()
    return [int(part) for part in text.split()]
