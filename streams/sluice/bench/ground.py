"""A broker of one's own for a benchmark, processes of the product on it, and nothing left behind.

Every `Pipeline` has topics of its own on that broker, so that one run does not see another's.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import psutil

from sluice.errors import OutsideError, SluiceError
from sluice.local.kafka import KafkaNode
from sluice.local.ports import free_port
from sluice.local.process import spawn, tail
from sluice.local.specs import child_env
from sluice.local.stack import StackPaths
from sluice.runtime.publish import ensure_price_book
from sluice.settings import Settings
from sluice.wire.kafka import ensure_topics

Tell = Callable[[str], None]

# A meter that is held while its backlog is loaded stays a member of its group for so long. Faust
# allows no more than its request time-out of 90 s.
_SESSION_MS = 80_000
_WAIT_S = 900.0
_POLL_S = 0.02


class Worker:
    """One process of the product, and what the operating system says of it."""

    def __init__(self, name: str, argv: tuple[str, ...], settings: Settings) -> None:
        self.name = name
        self._status = settings.dir / "status" / f"{name}.json"
        paths = StackPaths(settings.dir.resolve())
        self._log = paths.log(name)
        self._process = spawn(argv, self._log, child_env(settings, paths))
        self._measured = psutil.Process(self._process.pid)

    def cpu_s(self) -> float:
        """CPU seconds so far, user and system, of all its threads."""
        times = self._measured.cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        """Memory it holds now."""
        return int(self._measured.memory_info().rss)

    def peak_rss_bytes(self) -> int:
        """The most memory it ever held, as far as the system remembers that."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            return self.rss_bytes()
        peaks = [line for line in lines if line.startswith("VmHWM")]
        return int(peaks[0].split()[1]) * 1024 if peaks else self.rss_bytes()

    def status(self) -> dict[str, Any]:
        """What it last wrote about itself, {} before; SluiceError when it has ended."""
        if self._process.poll() is not None:
            raise SluiceError(
                f"{self.name} ended with {self._process.returncode}; its log ends:\n"
                f"{tail(self._log)}"
            )
        try:
            found: dict[str, Any] = json.loads(self._status.read_text())
        except (OSError, ValueError):
            return {}
        return found if found["pid"] == self._process.pid else {}

    def hold(self) -> None:
        """Stop it where it stands; `go` lets it go on."""
        self._process.send_signal(signal.SIGSTOP)

    def go(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it and wait; killed when it takes longer."""
        self.go()
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Pipeline:
    """Topics with the packaged prices in force, and the workers that were started on them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._workers = ExitStack()
        StackPaths(settings.dir).create()
        ensure_topics(settings)
        ensure_price_book(settings)

    def meters(self, count: int = 1) -> list[Worker]:
        """Start meters and wait until they own all partitions."""
        meters = [self.start(f"meter-{slot}", "meter", "--slot", str(slot))
                  for slot in range(count)]  # fmt: skip
        partitions = self.settings.partitions
        shares = {partitions // count, -(-partitions // count)}
        until(
            lambda: (
                {len(owned(meter)) for meter in meters} <= shares
                and sum(len(owned(meter)) for meter in meters) == partitions
            ),
            "the meters to own all partitions",
        )
        return meters

    def start(self, name: str, *words: str) -> Worker:
        """Start a command of the product as a process."""
        command, *options = words
        argv = (sys.executable, "-m", "sluice.cli", command,
                "--dir", str(self.settings.dir), *options)  # fmt: skip
        worker = Worker(name, argv, self.settings)
        self._workers.callback(worker.stop)
        return worker

    def stop(self) -> None:
        """End the workers; the topics stay."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Ground:
    """`with Ground() as ground:` runs a broker in a temporary folder and removes both again."""

    def __init__(self, tell: Tell = lambda _: None) -> None:
        self.tell = tell
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # Told to end, Python would leave its children behind; interrupted, it cleans up.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._stack.callback(signal.signal, signal.SIGTERM, before)
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._broker = KafkaNode(self.folder / "kafka", free_port(2))
        self._stack.callback(self._broker.stop)
        self.tell("starting a broker")
        try:
            self._broker.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def bootstrap(self) -> str:
        """Address of the broker."""
        return self._broker.bootstrap

    def pipeline(self, name: str, **over: Any) -> Pipeline:
        """Fresh topics under a prefix of their own; `over` are settings."""
        given: dict[str, Any] = {
            "dir": self.folder / name, "topic_prefix": f"{name}.", "partitions": 4,
            "kafka_bootstrap": self.bootstrap, "kafka_options": {}, "metrics_port": 0,
            "session_timeout_ms": _SESSION_MS, "log_level": "WARNING",
        }  # fmt: skip
        return Pipeline(Settings.model_validate(given | over))

    def tool(self, module: str, *words: str) -> dict[str, Any]:
        """Run a module of this package as a process of its own and return what it measured."""
        argv = [sys.executable, "-m", f"sluice.bench.{module}", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode != 0:
            raise SluiceError(f"{module} failed: {done.stderr.strip()[-1500:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def owned(meter: Worker) -> list[dict[str, Any]]:
    """The partitions that a meter says it owns."""
    found: list[dict[str, Any]] = meter.status().get("partitions", [])
    return found


def until(
    holds: Callable[[], bool], what: str, timeout_s: float = _WAIT_S, poll_s: float = _POLL_S
) -> None:
    """Wait for something that must become true; OutsideError when it does not."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise OutsideError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(poll_s)
