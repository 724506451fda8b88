"""The partitions that a process owns: restore, apply, checkpoint, hand over."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sluice.runtime.checkpoint import Fenced, give_back_memory
from sluice.runtime.chunks import Chunk
from sluice.runtime.metrics import Metrics
from sluice.runtime.owned import OwnedPartition
from sluice.runtime.places import Place
from sluice.runtime.references import References
from sluice.settings import Settings

log = logging.getLogger(__name__)


class Owner:
    """All partitions of this process, each by its number in the input.

    `place_of` says where such a number is read. `on_fenced` ends the process when another one took
    a partition over, `on_fault` when a commit failed in a way that leaves what is in memory ahead
    of what can still be written.
    """

    def __init__(
        self, settings: Settings, place_of: Callable[[int], Place], references: References,
        metrics: Metrics, *, on_fenced: Callable[[str], None], on_fault: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._metrics = metrics
        self._settings = settings
        self.place_of = place_of
        self._references = references
        self._on_fenced = on_fenced
        self._on_fault = on_fault
        self._executor = ThreadPoolExecutor(max_workers=max(8, 2 * settings.partitions))
        self._assigning = asyncio.Lock()
        self._scheduled: dict[int, asyncio.TimerHandle] = {}
        self._begun_at: dict[int, float] = {}  # commits of what cannot wait, by partition
        self._hurrying: set[int] = set()
        self._tasks: set[asyncio.Future[None]] = set()
        self.owned: dict[int, OwnedPartition] = {}

    async def assign(self, numbers: set[int]) -> dict[int, int]:
        """Own exactly `numbers`; return the position of each. Kept ones prove themselves first."""
        async with self._assigning:  # Faust now and then calls twice at once
            for number in set(self.owned) - numbers:
                self.owned.pop(number).log.close()
            await asyncio.gather(*(self._take(number) for number in numbers))
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, give_back_memory)
            return {number: self.owned[number].position for number in numbers}

    async def _take(self, number: int) -> None:
        kept = self.owned.get(number)
        if kept is not None:
            try:
                await kept.checkpoint(self._executor, prove=True)
            except Fenced:
                log.info("partition %d was taken over meanwhile; restoring", number)
            else:
                return
        place = self.place_of(number)
        fresh = OwnedPartition(self._settings, place, self._references, self._metrics)
        loop = asyncio.get_running_loop()
        self.owned[number] = await loop.run_in_executor(self._executor, fresh.restore)

    async def apply(self, number: int, chunk: Chunk) -> None:
        """Apply a chunk and see to a prompt checkpoint where a decision or a share waits."""
        owned = self.owned[number]
        self._metrics.chunk_records.observe(len(chunk.records))
        await owned.apply(chunk)
        self._see_to(number)

    def _see_to(self, number: int) -> None:
        owned = self.owned.get(number)
        partition = owned.partition if owned else None
        if partition is None or number in self._hurrying:
            return  # a prompt commit in flight looks again when it is done
        if partition.urgent:
            self._soon(number, self._settings.decision_delay_ms)
        elif partition.share_waits:
            self._soon(number, self._settings.share_delay_ms)

    def _soon(self, number: int, delay_ms: int) -> None:
        """Commit at once, but not again within `delay_ms` of the last prompt commit."""
        loop, waiting = asyncio.get_running_loop(), self._scheduled.get(number)
        due = max(loop.time(), self._begun_at.get(number, -math.inf) + delay_ms / 1000)
        if waiting is not None:
            if waiting.when() <= due:
                return
            waiting.cancel()
        self._scheduled[number] = loop.call_at(due, self._start_checkpoint, number)

    def _start_checkpoint(self, number: int) -> None:
        del self._scheduled[number]
        self._begun_at[number] = asyncio.get_running_loop().time()
        task = asyncio.ensure_future(self._hurry(number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hurry(self, number: int) -> None:
        """Commit; one after the other, however long the broker takes."""
        self._hurrying.add(number)
        try:
            await self.checkpoint(number)
        finally:
            self._hurrying.discard(number)
        self._see_to(number)

    async def checkpoint(self, number: int) -> None:
        """Commit one partition; ends the process if it is no longer the owner."""
        owned = self.owned.get(number)
        if owned is None:
            return
        try:
            await owned.checkpoint(self._executor)
        except Fenced as error:
            if self.owned.get(number) is owned:
                self._on_fenced(str(error))
        except Exception as error:
            self._on_fault(f"checkpoint of partition {number}: {error!r}")

    def statuses(self) -> list[dict[str, Any]]:
        """What `sluice status` and Prometheus show of each owned partition."""
        return [owned.status() for owned in list(self.owned.values()) if owned.partition]

    async def checkpoint_all(self) -> None:
        """Commit every owned partition."""
        await asyncio.gather(*(self.checkpoint(number) for number in list(self.owned)))
