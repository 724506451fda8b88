"""How long a meter takes to have its state back, and what memory the state takes.

The state is written as the meter writes it: window rows that real usage made, under other keys, and
one ledger per tenant and budget; all through the meter's own state and its transactions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from sluice.bench.drain import end_offsets
from sluice.bench.figures import Figure, Report, machine
from sluice.bench.ground import Ground, Pipeline, Worker, owned, until
from sluice.bench.workload import Mix, make
from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.errors import SluiceError
from sluice.local.jars import kafka_version
from sluice.metering.columnar.window_state import key_columns, state_columns
from sluice.metering.prices import default_book
from sluice.metering.windows import WINDOW_US, WindowKey
from sluice.runtime.checkpoint import PartitionLog
from sluice.runtime.outputs import OutRecord
from sluice.runtime.partition import Partition
from sluice.runtime.state import HEADER, LEDGER, WINDOW, State
from sluice.runtime.state_rows import stored_windows
from sluice.settings import Settings
from sluice.wire.codec import encode
from sluice.wire.column_types import AnyColumn
from sluice.wire.kafka import topics
from sluice.wire.topics import Topics

RECOVERY_S = 10.0
RSS_MIB = 1024.0

_SAMPLE_EVENTS, _SAMPLE_ROWS = 20_000, 256
_BATCH = 50_000
_DAY_US = 86_400_000_000


class Size(NamedTuple):
    """How much state there is, over all partitions."""

    rows: int
    ledgers: int


class Restored(NamedTuple):
    """A started meter with all of its state."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int


def run(ground: Ground, size: Size) -> Report:
    """Write the state, start a meter, wait until it has all of it."""
    tell = ground.tell
    tell("start without any state")
    with ground.pipeline("empty") as pipeline:
        empty = restored(pipeline, Size(0, 0))
    with ground.pipeline("state") as pipeline:
        tell(f"writing {size.rows:,} window rows and {size.ledgers:,} ledgers")
        state_bytes = write_state(pipeline.settings, size)
        tell("recovery")
        full = restored(pipeline, size)
    return Report(
        "recovery", machine(),
        {**size._asdict(), "partitions": 4, "kafka": kafka_version()},
        [
            Figure("recovery", round(full.wall_s, 2), "s", RECOVERY_S),
            Figure("recovery_cpu", round(full.cpu_s, 2), "s"),
            Figure("start_without_state", round(empty.wall_s, 2), "s"),
            Figure("rows_per_s", round(size.rows / full.wall_s), "rows/s"),
            Figure("rss", round(full.rss_bytes / 2**20), "MiB", RSS_MIB),
            Figure("peak_rss", round(full.peak_rss_bytes / 2**20), "MiB"),
            Figure("rss_without_state", round(empty.rss_bytes / 2**20), "MiB"),
            Figure("state_bytes_per_row", round(state_bytes / max(1, sum(size)), 1), "B"),
        ],
    )  # fmt: skip


def restored(pipeline: Pipeline, size: Size) -> Restored:
    """Start a meter; the clock runs from the start of its process."""
    begun = time.monotonic()
    meter = pipeline.start("meter-0", "meter", "--slot", "0")
    until(lambda: len(owned(meter)) == pipeline.settings.partitions, "the meter to start")
    wall_s = time.monotonic() - begun
    found = Size(_count(meter, "windows"), _count(meter, "ledgers"))
    if found != size:
        raise SluiceError(f"the meter restored {found} instead of {size}")
    return Restored(wall_s, meter.cpu_s(), meter.rss_bytes(), meter.peak_rss_bytes())


def _count(meter: Worker, what: str) -> int:
    return sum(partition[what] for partition in owned(meter))


def write_state(settings: Settings, size: Size) -> int:
    """Commit the state of every partition as its owner would; returns its bytes."""
    sample, written, names = sample_rows(), 0, topics(settings)
    ends = end_offsets(settings, names.usage)
    for number in range(settings.partitions):
        log = PartitionLog(settings, "meter", (names.usage, number), names.meter_state)
        log.restore(_ignore)
        records = _state_rows(_share(size, number, settings.partitions), number, sample)
        while batch := list(islice(records, _BATCH)):
            log.commit([OutRecord(names.meter_state, number, k, v) for k, v in batch], ends[number])
            written += sum(len(key) + len(value or b"") for key, value in batch)
        log.close()
    return written


def _share(size: Size, number: int, partitions: int) -> Size:
    return Size(*(amount // partitions + (number < amount % partitions) for amount in size))


def _ignore(_rows: Mapping[bytes, bytes]) -> None:
    pass


def _state_rows(size: Size, number: int, sample: Sample) -> Iterator[tuple[bytes, bytes | None]]:
    """Changelog rows of one partition, a sample of rows at a time."""
    now = time.time_ns() // 1000
    for first in range(0, size.rows, sample.rows):
        columns = sample.columns | _identities(number, first, sample.rows, now)
        taken = islice(stored_windows(columns, sample.rows), size.rows - first)
        yield from ((WINDOW + key, value) for key, value in taken)
    state = State(0, 0)
    state.header.time = now
    state.touch(HEADER)
    for place in range(size.ledgers):
        tenant_id = f"tenant-{number}-{place:06}"
        budget = LedgerKey("bench", "tenant-day", f"tenant_id={tenant_id}", "day")
        state.ledgers[budget] = Ledger(tenant_id, now, now + _DAY_US, 10**18, settled=place * 10**9)
        state.touch(LEDGER, budget)
    yield from state.take_changes()


def _identities(number: int, first: int, rows: int, now: int) -> dict[str, AnyColumn]:
    return key_columns([_window_key(number, place, now) for place in range(first, first + rows)])


def _window_key(number: int, place: int, now: int) -> WindowKey:
    # Windows of the next minutes stay open: none is due to be closed while this runs.
    start = now - now % WINDOW_US + (10 + place % 10) * WINDOW_US
    tenant, rest = divmod(place // 10, 50)
    model, tool = divmod(rest, 10)
    return WindowKey(f"tenant-{number}-{tenant:06}", "project-0", f"vendor/model-{model}",
                     f"tool-{tool:02}", start, "")  # fmt: skip


@dataclass(slots=True)
class _Sample:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class _Books:
    """The packaged price book as the only published reference."""

    def get(self, name: tuple[str, str, str]) -> Any:
        """The book, or None for anything else."""
        book = default_book()
        return book if name == ("price_book", book.book_id, book.version) else None

    def is_faulty(self, _name: tuple[str, str, str]) -> bool:
        """Nothing is."""
        return False


class Sample(NamedTuple):
    """Window rows as columns of the changelog's."""

    columns: dict[str, AnyColumn]
    rows: int


def sample_rows() -> Sample:
    """Published window rows that the workload makes, some with one event and some with many."""
    work, now, book = make(Mix(_SAMPLE_EVENTS)), time.time_ns() // 1000, default_book()
    state = State(3_600_000_000, 3_600_000_000)
    names = Topics("sample.", 4)
    partition = Partition(names, 0, state, _Books(), epoch=1)
    activate = encode("Activate", {"kind": "price_book", "id": book.book_id,
                                   "version": book.version})  # fmt: skip
    usage = work.records(work.occurred_at(now - 15_000_000))
    values = [(None, activate), *usage]
    partition.apply([_Sample(n, now // 1000, k, v) for n, (k, v) in enumerate(values)])
    slots = state.windows.take_dirty()
    slots = slots[:: max(1, len(slots) // _SAMPLE_ROWS)]
    return Sample(state_columns(state.windows, slots), len(slots))
