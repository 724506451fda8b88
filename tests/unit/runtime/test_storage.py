"""The sink between Kafka and ClickHouse: order, back-pressure, and nothing lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP
from tests.builders import NOW, FakeRecord, FakeReferences, record, usage

from sluice.errors import OutsideError, SluiceError
from sluice.runtime import patience
from sluice.runtime.chunks import Chunk
from sluice.runtime.storage import Storage
from sluice.runtime.storing import Position
from sluice.settings import Settings
from sluice.wire.codec import encode
from sluice.wire.kafka import topics

CHUNK = 100


class FakeWarehouse:
    """Keeps offsets of usage and positions; away while `away` is set."""

    def __init__(self) -> None:
        self.away = threading.Event()
        self.offsets: list[int] = []
        self.batches: list[int] = []
        self.saved: list[dict[tuple[str, int], str]] = []
        self.refuses: str | None = None

    def insert_batch(
        self, table: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]]
    ) -> int:
        self._check()
        if table == self.refuses:
            raise SluiceError("a value does not fit")
        found = [int(row["source_offset"]) for row in rows]
        for piece in columns:
            found += piece["source_offset"].to_pylist()
        self.offsets += found
        self.batches.append(len(found))
        return len(found)

    def positions(self) -> dict[tuple[str, int], str]:
        self._check()
        return {place: state for saved in self.saved for place, state in saved.items()}

    def save_positions(self, states: Mapping[tuple[str, int], str]) -> None:
        self._check()
        self.saved.append(dict(states))

    def _check(self) -> None:
        if self.away.is_set():
            raise OutsideError("ClickHouse is away")


class FakeDoubtful(FakeReferences):
    """References that are never in doubt."""

    def doubt(self, name: tuple[str, str, str]) -> None:
        """Nothing is activated here."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """ClickHouse is tried again at once."""
    monkeypatch.setattr(patience, "_RETRY_S", 0.01)


def opened(folder: Path, **over: Any) -> tuple[Storage, FakeWarehouse, TP]:
    """A storage of small batches on a fake warehouse, and its usage partition."""
    settings = Settings(dir=folder, sink_batch_rows=2 * CHUNK, **over)
    warehouse = FakeWarehouse()
    partition = TP(topics(settings).usage, 0)
    return Storage(settings, FakeDoubtful(), warehouse), warehouse, partition


@pytest.fixture
def made(tmp_path: Path) -> tuple[Storage, FakeWarehouse, TP]:
    """The usual one."""
    return opened(tmp_path)


def chunk(number: int) -> Chunk:
    """Consecutive usage records."""
    offsets = range(number * CHUNK, (number + 1) * CHUNK)
    return Chunk(offsets.start, [record(n, usage(n + 1)) for n in offsets])


async def feed(storage: Storage, tp: TP, chunks: int, taken: list[int]) -> None:
    """Give chunk after chunk, as the consumer does, and note each that was taken."""
    for number in range(chunks):
        await storage.add(tp, chunk(number))
        taken.append(number)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test of coroutines, within a time."""
    asyncio.run(asyncio.wait_for(test, 30))


def test_while_clickhouse_is_away_a_bounded_number_of_chunks_is_taken(
    made: tuple[Storage, FakeWarehouse, TP],
) -> None:
    """Two batches wait at most; once it is back everything is stored once, in order."""
    storage, warehouse, tp = made

    async def test() -> None:
        warehouse.away.set()
        taken: list[int] = []
        feeding = asyncio.create_task(feed(storage, tp, 50, taken))
        await asyncio.sleep(0.3)
        assert len(taken) == 3  # the fourth fills the second batch and waits for room
        assert storage.waiting == "ClickHouse is away"
        assert not warehouse.offsets
        warehouse.away.clear()
        await feeding
        await storage.store()

    run(test())
    assert warehouse.offsets == list(range(50 * CHUNK))
    assert set(warehouse.batches) == {2 * CHUNK}
    assert f'"next_offset":{50 * CHUNK}' in warehouse.saved[-1][tp]
    assert storage.waiting is None


def test_large_records_fill_a_batch_by_their_bytes(tmp_path: Path) -> None:
    """A batch ends at so many bytes, however few rows it has."""
    storage, warehouse, tp = opened(tmp_path, sink_batch_bytes=1)

    async def test() -> None:
        await feed(storage, tp, 3, [])
        await storage.store()

    run(test())
    assert warehouse.batches == [CHUNK] * 3


def test_positions_follow_the_rows_they_stand_for(made: tuple[Storage, FakeWarehouse, TP]) -> None:
    """A sink that starts again goes on behind what is stored, and stores the rest once more."""
    storage, warehouse, tp = made

    async def test() -> None:
        await feed(storage, tp, 3, [])
        await storage.store()
        assert await storage.restore({tp}) == {tp: 3 * CHUNK}
        assert await storage.restore({TP(tp.topic, 1)}) == {TP(tp.topic, 1): None}

    run(test())
    assert len(warehouse.saved) == 2


def test_no_position_passes_over_a_batch_that_was_not_stored(
    made: tuple[Storage, FakeWarehouse, TP],
) -> None:
    """A refused batch ends the storing: neither the next batch nor the timer go on behind it."""
    storage, warehouse, tp = made
    warehouse.refuses = "usage_events"

    async def test() -> None:
        await feed(storage, tp, 2, [])
        await asyncio.sleep(0.1)
        warehouse.refuses = None
        with pytest.raises(SluiceError):
            await storage.store()
        with pytest.raises(SluiceError):
            await feed(storage, tp, 4, [])

    run(test())
    assert not warehouse.saved
    assert not warehouse.offsets


def test_a_stop_in_the_middle_of_a_batch_lets_no_position_pass_it(
    made: tuple[Storage, FakeWarehouse, TP],
) -> None:
    """What was cancelled on its way is not stored, so nothing behind it is either."""
    storage, warehouse, tp = made

    async def test() -> None:
        warehouse.away.set()
        await feed(storage, tp, 1, [])
        storing = asyncio.create_task(storage.store())
        await asyncio.sleep(0.05)
        storing.cancel()
        await asyncio.sleep(0.05)
        warehouse.away.clear()
        await storage.add(tp, Chunk(CHUNK, [FakeRecord(CHUNK, NOW // 1000, b"", b"")]))
        with pytest.raises(SluiceError, match="earlier batch"):
            await storage.store()

    run(test())
    assert not warehouse.saved


def test_rows_of_the_meter_are_stored_as_columns(made: tuple[Storage, FakeWarehouse, TP]) -> None:
    """Rows of a run are read together, a damaged one stops the sink as before."""
    storage, _, _ = made
    counts = ("highest", "missing", "lost", "recovered", "duplicates", "unprotected")
    source = {"tenant_id": "acme", "source": "gw", "source_epoch": "e", "last_seen_at": NOW,
              **dict.fromkeys(counts, 0)}  # fmt: skip
    values = [encode("SourceRow", source | {"events": n, "version": n}) for n in range(1, 101)]
    rows = [FakeRecord(n, NOW // 1000, b"k", value) for n, value in enumerate(values)]
    topic = topics(storage._settings).sources
    taken, done = storage._storing.take(topic, 0, rows, Position(0))
    (piece,) = taken.columns["usage_sources"]
    assert (done, piece["events"].to_pylist()) == (100, list(range(1, 101)))
    rows[50].value = values[50][:-1]
    with pytest.raises(SluiceError):
        storage._storing.take(topic, 0, rows, Position(0))
