"""What a worker tells Prometheus: one table of names, served on loopback.

Counters of the meter come from its checkpointed state: they are exact and go on across restarts and
new owners. `METRICS` is the table; the README repeats it and a test holds the two together.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sluice.settings import Settings

log = logging.getLogger(__name__)

# name -> (type, labels, meaning)
METRICS: Mapping[str, tuple[str, tuple[str, ...], str]] = MappingProxyType({
    "sluice_events_total": ("counter", ("partition",), "usage events applied"),
    "sluice_duplicates_total": ("counter", ("partition",), "resends recognised and not applied"),
    "sluice_recovered_total": ("counter", ("partition",), "missing numbers that arrived after all"),
    "sluice_lost_total": ("counter", ("partition",), "numbers of producers that were given up"),
    "sluice_unprotected_total": (
        "counter", ("partition",), "events without a number, too old to tell a duplicate"),
    "sluice_unpriced_total": ("counter", ("partition",), "events without a price"),
    "sluice_late_total": ("counter", ("partition",), "events that went to a late lane"),
    "sluice_clamped_total": ("counter", ("partition",), "events with a time in the future"),
    "sluice_admission_events_total": ("counter", ("partition",), "reports of admission points"),
    "sluice_decisions_total": ("counter", ("partition",), "decisions published"),
    "sluice_expired_total": ("counter", ("partition",), "records that expired before being read"),
    "sluice_dead_letters_total": (
        "counter", ("partition", "reason"), "records refused (never a silent drop)"),
    "sluice_lag_records": ("gauge", ("topic", "partition"), "records not yet committed"),
    "sluice_lag_seconds": (
        "gauge", ("topic", "partition"), "age of the newest applied, while behind"),
    "sluice_watermark_seconds": (
        "gauge", ("partition",), "event time up to which rows are complete, Unix seconds"),
    "sluice_open_rows": ("gauge", ("partition", "kind"), "rows in memory that can still change"),
    "sluice_missing_numbers": ("gauge", ("partition",), "numbers of producers that may still come"),
    "sluice_incomplete_events": (
        "gauge", ("partition", "source", "kind"),
        "missing, lost, recovered, unprotected events of a producer, the 100 worst"),
    "sluice_chunk_records": ("histogram", (), "records handled at once"),
    "sluice_checkpoint_seconds": ("histogram", (), "duration of a committed transaction"),
    "sluice_loop_seconds": (
        "histogram", (), "from a record's arrival at the broker to its committed decision"),
    "sluice_stored_rows_total": ("counter", ("table",), "rows stored in ClickHouse"),
    "sluice_store_seconds": ("histogram", (), "duration of an insert into ClickHouse"),
    "sluice_waiting": ("gauge", ("process",), "1 while something outside is waited for"),
})  # fmt: skip
_COUNTERS = ("events", "duplicates", "recovered", "lost", "unprotected", "unpriced", "late",
             "clamped", "admission_events", "decisions", "expired")  # fmt: skip
_INCOMPLETE = ("missing", "lost", "recovered", "unprotected")
_SIZES = (1, 10, 100, 500, 1000, 2000, 5000, 10_000, 20_000)
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_LOOPBACK = "127.0.0.1"

Sample = tuple[str, tuple[str, ...], float]  # name, label values, value


class Metrics:
    """The registry of one worker; `sample` is asked at each scrape for what only it knows."""

    def __init__(self, sample: Callable[[], Iterable[Sample]] = lambda: ()) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(sample))
        self.chunk_records = self._histogram("sluice_chunk_records", _SIZES)
        self.checkpoint_seconds = self._histogram("sluice_checkpoint_seconds", _SECONDS)
        self.loop_seconds = self._histogram("sluice_loop_seconds", _SECONDS)
        self.store_seconds = self._histogram("sluice_store_seconds", _SECONDS)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, METRICS[name][2], buckets=buckets, registry=self._registry)

    def serve(self, settings: Settings, index: int) -> int:
        """Serve /metrics on loopback and return the port; `index` tells the workers apart.

        A port that is taken is replaced by a free one: metering never fails for its metrics.
        """
        wanted = settings.metrics_port + index if settings.metrics_port else 0
        try:
            server, _ = start_http_server(wanted, addr=_LOOPBACK, registry=self._registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            log.warning("port %d for metrics is taken; using a free one", wanted)
            server, _ = start_http_server(0, addr=_LOOPBACK, registry=self._registry)
        return int(server.server_port)


class _Collector:
    """Metric families made of samples at the time of a scrape."""

    def __init__(self, sample: Callable[[], Iterable[Sample]]) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        """Families in the order of METRICS."""
        families: dict[str, Any] = {}
        for name, labels, value in self._sample():
            kind, names, meaning = METRICS[name]
            if name not in families:
                family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
                families[name] = family(name, meaning, labels=names)
            families[name].add_metric(labels, value)
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before the first scrape."""
        yield from ()


def partition_samples(
    status: Mapping[str, Any], read: tuple[str, int], now_s: float
) -> Iterator[Sample]:
    """Samples of one owned partition from its status; `now_s` in Unix seconds.

    `read` is the topic and partition that it reads.
    """
    number = str(status["partition"])
    counters: Mapping[str, int] = status["counters"]
    for name in _COUNTERS:
        yield f"sluice_{name}_total", (number,), counters.get(name, 0)
    for name, count in counters.items():
        kind, _, reason = name.partition(".")
        if kind == "dead_letters" and reason:
            yield "sluice_dead_letters_total", (number, reason), count
    for kind in ("windows", "tasks", "ledgers", "leases", "shares", "sources", "cohorts"):
        yield "sluice_open_rows", (number, kind), status[kind]
    yield "sluice_missing_numbers", (number,), status["missing_numbers"]
    for source, counts in status["incomplete"].items():
        for kind, count in zip(_INCOMPLETE, counts, strict=True):
            yield "sluice_incomplete_events", (number, source, kind), count
    yield "sluice_watermark_seconds", (number,), status["watermark"] / 1e6
    if status["lag"] is not None:
        labels = (read[0], str(read[1]))
        yield "sluice_lag_records", labels, status["lag"]
        behind = now_s - status["time"] / 1e6 if status["lag"] else 0.0
        yield "sluice_lag_seconds", labels, max(0.0, behind)
