"""One process that keeps the stack's processes running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from sluice.errors import ConfigError
from sluice.local.process import EX_CONFIG, ProcessSpec, State, created_at, signal_group, spawn
from sluice.local.stack import ProcessState, StackPaths, StackState, Tell, write_state

_TICK_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waiting times between restarts, in seconds."""

    first_s: float = 1.0
    longest_s: float = 30.0
    healthy_s: float = 60.0

    def after_crash(self, previous_s: float, uptime_s: float) -> float:
        """Next wait: doubled each time, the first one again after `healthy_s` of running."""
        if previous_s == 0 or uptime_s >= self.healthy_s:
            return self.first_s
        return min(2 * previous_s, self.longest_s)


@dataclass(slots=True)
class Child:
    """One process under supervision; `now` is monotonic seconds everywhere."""

    spec: ProcessSpec
    log: Path
    backoff: Backoff
    settle_s: float
    record: ProcessState = field(init=False)
    _process: subprocess.Popen[bytes] | None = None
    _started: float = 0.0
    _wait_s: float = 0.0

    def __post_init__(self) -> None:
        self.record = ProcessState(self.spec.name, since=_wall_us())

    @property
    def up(self) -> bool:
        """Whether those that come after it may start."""
        return self.record.state in ("ready", "done")

    @property
    def running(self) -> bool:
        """Whether there is a process to stop."""
        return self._process is not None

    def watch(self, now: float, *, may_start: bool) -> None:
        """Bring the process one step forward."""
        if self._process is not None:
            self._watch_process(self._process, now)
        elif (self.record.state == "waiting" and may_start) or self._rested(now):
            self._start(now)

    def _rested(self, now: float) -> bool:
        return self.record.state == "backoff" and now >= self._started + self._wait_s

    def _start(self, now: float) -> None:
        try:
            self._process = spawn(self.spec.argv, self.log, self.spec.env)
        except OSError as error:
            with self.log.open("a") as log:
                log.write(f"{self.spec.argv[0]} cannot be started: {error}\n")
            self._become("failed")
            return
        self._started = now
        pid = self._process.pid
        self._become("starting", pid=pid, started_at=created_at(pid) or _wall_us())

    def _watch_process(self, process: subprocess.Popen[bytes], now: float) -> None:
        code = process.poll()
        if code is not None:
            self._ended(process, code, now)
        elif self.record.state == "starting" and not self.spec.once and self._answers(now):
            self._become("ready")

    def _answers(self, now: float) -> bool:
        if self.spec.ready is None:
            return now - self._started >= self.settle_s
        return self.spec.ready()

    def _ended(self, process: subprocess.Popen[bytes], code: int, now: float) -> None:
        # What the process itself had started must not outlive it.
        signal_group(process.pid, signal.SIGKILL)
        self._process = None
        if self.spec.once and code == 0:
            self._become("done", pid=None, exit_code=0)
        elif code == EX_CONFIG:
            self._become("failed", pid=None, exit_code=code)
        else:
            self._wait_s = self.backoff.after_crash(self._wait_s, now - self._started)
            self._started = now
            restarts = self.record.restarts + 1
            self._become("backoff", pid=None, exit_code=code, restarts=restarts)

    def ask_to_stop(self) -> None:
        """Send the stop signal to the process, which stops what it started."""
        if self._process is not None:
            self._process.send_signal(self.spec.stop_signal)

    def await_stop(self, deadline: float) -> None:
        """Wait until the process has ended; its whole group is killed at `deadline`."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
        signal_group(self._process.pid, signal.SIGKILL)
        code, self._process = self._process.returncode, None
        self._become("stopped", pid=None, exit_code=code)

    def _become(self, state: State, **known: Any) -> None:
        self.record = replace(self.record, state=state, since=_wall_us(), **known)


class Supervisor:
    """Starts processes in the order of their `after`, restarts what crashes, stops them in reverse.

    Runs in the main thread, because the children end with the thread that started them.
    """

    def __init__(
        self,
        paths: StackPaths,
        specs: Iterable[ProcessSpec],
        *,
        endpoints: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        backoff: Backoff | None = None,
        settle_s: float = 1.0,
        tell: Tell = lambda _: None,
    ) -> None:
        backoff = backoff or Backoff()
        self.paths = paths
        self.children = {
            s.name: Child(s, paths.log(s.name), backoff, settle_s) for s in in_order(specs)
        }
        self._endpoints = dict(endpoints or {})
        self._settings = dict(settings or {})
        self._tell = tell
        self._stopping = False
        self._written: StackState | None = None

    def run(self) -> None:
        """Supervise until SIGINT, SIGTERM or SIGHUP, then stop everything and leave no state."""
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            while not self._stopping:
                self._tick()
                time.sleep(_TICK_S)
        finally:
            self._stop()
            self.paths.state.unlink(missing_ok=True)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _tick(self) -> None:
        for child in self.children.values():
            if self._stopping:
                return
            may_start = all(self.children[name].up for name in child.spec.after)
            child.watch(time.monotonic(), may_start=may_start)
            self._record()

    def _record(self) -> None:
        states = tuple(child.record for child in self.children.values())
        if self._written is not None and self._written.processes == states:
            return
        self._tell_changes(states)
        self._written = StackState(
            supervisor_pid=os.getpid(),
            supervisor_started_at=created_at(os.getpid()) or _wall_us(),
            endpoints=self._endpoints,
            settings=self._settings,
            processes=states,
        )
        write_state(self.paths, self._written)

    def _tell_changes(self, states: tuple[ProcessState, ...]) -> None:
        before = {p.name: p.state for p in self._written.processes} if self._written else {}
        for process in states:
            if process.state != before.get(process.name, "waiting"):
                self._tell(described(process, self.paths))

    def _stop(self) -> None:
        for layer in reversed(_layers(self.children.values())):
            running = [child for child in layer if child.running]
            for child in running:
                child.ask_to_stop()
            now = time.monotonic()
            for child in running:
                child.await_stop(now + child.spec.stop_timeout_s)
            self._record()


def described(process: ProcessState, paths: StackPaths) -> str:
    """One line for people about a process that changed its state."""
    name = process.name
    match process.state:
        case "backoff":
            return f"{name} ended with {process.exit_code}; restart {process.restarts} follows"
        case "failed":
            return f"{name} failed and is not restarted; see {paths.log(name)}"
        case _:
            return f"{name} {process.state}"


def in_order(specs: Iterable[ProcessSpec]) -> list[ProcessSpec]:
    """Specs with every process behind those it comes after; ConfigError where that cannot be."""
    left, ordered = list(specs), list[ProcessSpec]()
    while left:
        placed = {spec.name for spec in ordered}
        free = [spec for spec in left if placed.issuperset(spec.after)]
        if not free:
            raise ConfigError(f"no start order for {', '.join(spec.name for spec in left)}")
        ordered += free
        left = [spec for spec in left if spec not in free]
    return ordered


def _layers(children: Iterable[Child]) -> list[list[Child]]:
    """Groups that may stop at the same time: one needs only those in earlier groups."""
    depth: dict[str, int] = {}
    layers: list[list[Child]] = []
    for child in children:
        level = depth[child.spec.name] = 1 + max((depth[n] for n in child.spec.after), default=-1)
        layers += [[] for _ in range(level + 1 - len(layers))]
        layers[level].append(child)
    return layers


def _wall_us() -> int:
    return time.time_ns() // 1000
