"""The faults, by name: what a test does once each and a soak at random."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sluice.wire.kafka import topics
from tests.faults.feeder import Feeder
from tests.faults.pipeline import SESSION_MS, Pipeline

FULL_DISK_EVENTS = 80
_ROOT = Path(__file__).parents[2]


class Chaos:
    """Does things to a pipeline and its producers; `rng` picks victims and lengths."""

    def __init__(self, pipeline: Pipeline, feeder: Feeder, rng: random.Random) -> None:
        self._pipeline, self._feeder, self._rng = pipeline, feeder, rng
        self.faults: dict[str, Callable[[], None]] = {
            "kill_meter": lambda: pipeline.kill(self._meter()),
            "kill_two_meters": self._kill_two_meters,
            "kill_sink": lambda: pipeline.kill("sink"),
            "kill_rollup": lambda: pipeline.kill("rollup"),
            "kill_clickhouse": lambda: pipeline.kill("clickhouse"),
            "clickhouse_away": self._clickhouse_away,
            "clickhouse_hangs": self._clickhouse_hangs,
            "broker_crash": pipeline.broker_crash,
            "broker_restart": pipeline.broker_restart,
            "broker_hangs": lambda: pipeline.broker_freeze(rng.uniform(2, 9)),
            "meter_pauses": self._meter_pauses,
            "zombie": self._zombie,
            "join": self._join,
            "leave": self._leave,
            "clock_step": feeder.step_clock,
            "resends": feeder.resend_shuffled,
            "poison": feeder.poison_burst,
            "gateway_restart": feeder.restart_gateway,
            "disk_full": self._disk_full,
        }

    def _meter(self) -> str:
        return self._rng.choice(self._pipeline.meters())

    def _kill_two_meters(self) -> None:
        for name in self._pipeline.meters()[:2]:
            self._pipeline.kill(name)

    def _clickhouse_away(self) -> None:
        with self._pipeline.without("clickhouse"):
            time.sleep(self._rng.uniform(5, 15))

    def _clickhouse_hangs(self) -> None:
        with self._pipeline.frozen("clickhouse"):
            time.sleep(self._rng.uniform(3, 10))

    def _meter_pauses(self) -> None:
        with self._pipeline.frozen(self._meter()):
            time.sleep(self._rng.uniform(0.5, 4))

    def _zombie(self) -> None:
        """A worker frozen past its session, whose partitions another one took over."""
        if len(self._pipeline.meters()) < 2:
            self._join()
        with self._pipeline.frozen(self._meter()):
            time.sleep(SESSION_MS / 1000 + self._rng.uniform(3, 6))

    def _join(self) -> None:
        free = set(range(self._pipeline.settings.partitions)) - self._slots()
        if free:
            self._pipeline.join(min(free))

    def _leave(self) -> None:
        slots = self._slots()
        if len(slots) > 1:
            self._pipeline.leave(self._rng.choice(sorted(slots)))

    def _disk_full(self) -> None:
        """A gateway whose write-ahead log hits a full disk; it goes on when there is room."""
        settings = self._pipeline.settings
        folder = settings.dir / "wal" / str(self._rng.randrange(10**9))
        words = (settings.bootstrap, topics(settings).usage, str(folder), str(FULL_DISK_EVENTS))
        subprocess.run(
            [sys.executable, "-m", "tests.faults.full_disk", *words],
            check=True,
            timeout=180,
            cwd=_ROOT,
        )
        self._feeder.unique += FULL_DISK_EVENTS

    def _slots(self) -> set[int]:
        return {int(name.removeprefix("meter-")) for name in self._pipeline.meters()}
