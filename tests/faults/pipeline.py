"""A pipeline of real processes in one folder, each of which can be killed, frozen or left out."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from sluice.errors import OutsideError
from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.local.specs import child_env
from sluice.local.stack import StackPaths
from sluice.runtime.publish import publish_policy, publish_price_book
from sluice.settings import Settings
from sluice.warehouse.migrations import migrate
from sluice.wire.kafka import common, ensure_topics, topics
from tests.builders import policy
from tests.laws.streams import BOOK

SESSION_MS = 6000
_RESTART_S = 0.5


class Pipeline:
    """Broker, ClickHouse, sink, rollup and meters; what ends is started again at once."""

    def __init__(self, folder: Path, **over: int) -> None:
        self.node = KafkaNode(folder / "kafka", free_port(2))
        self.settings = Settings(
            dir=folder, kafka_bootstrap=self.node.bootstrap, clickhouse_port=free_port(),
            metrics_port=0, session_timeout_ms=SESSION_MS, **over,
        )  # fmt: skip
        self.exits: list[tuple[str, int]] = []
        self._wanted: dict[str, tuple[str, ...]] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._tending = threading.Thread(target=self._tend, daemon=True)

    def start(self, *, workers: int = 1) -> None:
        """Start everything and put the price book and a policy in force."""
        self.node.start()
        ensure_topics(self.settings)
        for topic, name, value in (
            (topics(self.settings).control, "cleanup.policy", "delete"),
            # Record times come from the producer, so that the broker's clock can step.
            (topics(self.settings).usage, "message.timestamp.type", "CreateTime"),
            (topics(self.settings).usage, "message.timestamp.after.max.ms", str(10**12)),
        ):
            self._configure(topic, name, value)
        self.add("clickhouse", "clickhouse")
        self._tending.start()
        _try_for(90, lambda: migrate(self.settings))
        publish_price_book(self.settings, BOOK)
        publish_policy(self.settings, policy())
        self.add("rollup", "rollup")
        self.add("sink", "sink")
        for slot in range(workers):
            self.join(slot)

    def _configure(self, topic: str, name: str, value: str) -> None:
        change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        resource.add_incremental_config(change)
        admin = AdminClient(common(self.settings))
        admin.incremental_alter_configs([resource])[resource].result(20)

    def stop(self) -> None:
        """End everything."""
        self._stopping.set()
        with self._lock:
            self._wanted.clear()
            for process in self._running.values():
                process.send_signal(signal.SIGCONT)
                process.terminate()
            for process in self._running.values():
                _await_end(process)
        self.node.stop()

    # ---- processes

    def add(self, name: str, *words: str) -> None:
        """Start a process of the command line and keep it running."""
        with self._lock:
            self._wanted[name] = words
            self._spawn(name)

    def _spawn(self, name: str) -> None:
        folder = self.settings.dir
        ours = child_env(self.settings, StackPaths(folder))
        argv = [sys.executable, "-m", "sluice.cli", *self._wanted[name], "--dir", str(folder)]
        with (folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(argv, env=ours, stdout=log, stderr=log)

    def _tend(self) -> None:
        while not self._stopping.wait(_RESTART_S):
            with self._lock:
                for name in list(self._wanted):
                    code = self._running[name].poll()
                    if code is not None and not self._stopping.is_set():
                        self.exits.append((name, code))
                        self._spawn(name)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The present process of a name."""
        return self._running[name]

    def meters(self) -> list[str]:
        """Names of the meters that should run."""
        return sorted(name for name in self._wanted if name.startswith("meter"))

    def kill(self, name: str) -> None:
        """Kill -9."""
        self._running[name].kill()

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """SIGSTOP, and SIGCONT afterwards."""
        process = self._running[name]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Kill -9 of a process that stays away for a while."""
        with self._lock:
            words = self._wanted.pop(name)
            self._running[name].kill()
            self._running[name].wait()
        try:
            yield
        finally:
            self.add(name, *words)

    def join(self, slot: int) -> None:
        """One more meter."""
        self.add(f"meter-{slot}", "meter", "--slot", str(slot))

    def leave(self, slot: int) -> None:
        """A meter ends in good order and does not come back."""
        name = f"meter-{slot}"
        with self._lock:
            del self._wanted[name]
            process = self._running.pop(name)
        process.terminate()
        _await_end(process)

    # ---- the broker

    def broker_crash(self) -> None:
        """Kill -9 of the broker and a start on its data."""
        self.node.kill()
        self.node.start()

    def broker_restart(self) -> None:
        """A clean stop of the broker and a start."""
        self.node.stop()
        self.node.start()

    def broker_freeze(self, seconds: float) -> None:
        """SIGSTOP of the broker for so long."""
        self.node.pause()
        time.sleep(seconds)
        self.node.resume()


def _await_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _try_for(seconds: float, call: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            call()
        except OutsideError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return
