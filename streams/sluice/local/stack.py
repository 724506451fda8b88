"""The stack's folder: what lies where, who holds it, what it wrote down about itself."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from sluice.errors import SluiceError
from sluice.local.process import State, alive, end_group

Tell = Callable[[str], None]

# Only a stop that clears leftovers holds the lock for a moment without being a supervisor.
_LOCK_WAIT_S = 0.5
_LEFTOVER_WAIT_S = 15.0


@dataclass(frozen=True, slots=True)
class StackPaths:
    """Paths inside one stack folder."""

    root: Path

    @property
    def state(self) -> Path:
        """What the supervisor wrote down last."""
        return self.root / "stack.json"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor of this folder."""
        return self.root / "lock"

    @property
    def kafka(self) -> Path:
        """The broker's configuration and data."""
        return self.root / "kafka"

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.root / "logs"

    def log(self, process: str) -> Path:
        """Log file of one process."""
        return self.logs / f"{process}.log"

    def create(self) -> Self:
        """Make the folders; SluiceError where that is not possible."""
        try:
            for folder in (self.logs, self.kafka, self.root / "clickhouse", self.root / "wal"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SluiceError(
                f"the stack folder {self.root} cannot be made ({error.strerror}); choose another "
                "with --dir"
            ) from error
        return self


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What is known of one process; instants in microseconds UTC, `exit_code` of its last end."""

    name: str
    state: State = "waiting"
    pid: int | None = None
    started_at: int | None = None
    since: int = 0
    restarts: int = 0
    exit_code: int | None = None

    @property
    def alive(self) -> bool:
        """Whether the recorded process itself still runs, not another one with its number."""
        return self.pid is not None and alive(self.pid, self.started_at or 0)


@dataclass(frozen=True, slots=True)
class StackState:
    """Content of stack.json."""

    supervisor_pid: int
    supervisor_started_at: int
    endpoints: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    processes: tuple[ProcessState, ...] = ()

    @property
    def supervised(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return alive(self.supervisor_pid, self.supervisor_started_at)

    @property
    def leftovers(self) -> tuple[ProcessState, ...]:
        """Processes that outlived their supervisor."""
        return () if self.supervised else tuple(p for p in self.processes if p.alive)


@dataclass(frozen=True, slots=True)
class StackStatus:
    """What `sluice status` shows; `notes` are sentences about anything out of order."""

    folder: Path
    running: bool
    supervisor_pid: int | None = None
    supervisor_started_at: int | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[ProcessState, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether every process is ready and every step done."""
        return self.running and _all_ready(self.processes)


def _all_ready(processes: tuple[ProcessState, ...]) -> bool:
    return bool(processes) and all(p.state in ("ready", "done") for p in processes)


def write_state(paths: StackPaths, state: StackState) -> None:
    """Replace stack.json at once; readable by its owner only."""
    content = asdict(state) | {"processes": {p.name: _without_name(p) for p in state.processes}}
    fresh = paths.state.with_suffix(".json.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=1)
    fresh.replace(paths.state)


def _without_name(process: ProcessState) -> dict[str, Any]:
    return {key: value for key, value in asdict(process).items() if key != "name"}


def read_state(paths: StackPaths) -> StackState | None:
    """What stack.json says; None without one. SluiceError when it cannot be understood."""
    try:
        content = json.loads(paths.state.read_text())
        processes = content.pop("processes", {})
        state = StackState(**content)
        states = tuple(ProcessState(name=name, **p) for name, p in processes.items())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise SluiceError(
            f"{paths.state} is not a stack's state ({error}); make sure that no stack runs in "
            "this folder, then delete the file"
        ) from error
    return replace(state, processes=states)


def read_status(folder: Path) -> StackStatus:
    """State of the stack in `folder` as it is now, leftovers of a dead supervisor named."""
    paths = StackPaths(folder.resolve())
    state = read_state(paths)
    if state is None:
        return StackStatus(paths.root, running=False)
    return StackStatus(
        folder=paths.root,
        running=state.supervised,
        supervisor_pid=state.supervisor_pid,
        supervisor_started_at=state.supervisor_started_at,
        endpoints=state.endpoints,
        processes=state.processes,
        notes=_notes(state),
    )


def _notes(state: StackState) -> tuple[str, ...]:
    if state.supervised:
        return ()
    orphans = [
        f"{p.name} (pid {p.pid}) still runs without it; `sluice down` stops it"
        for p in state.leftovers
    ]
    return (_died(state), *orphans)


def _died(state: StackState) -> str:
    return f"the last supervisor (pid {state.supervisor_pid}) ended without a clean stop"


@contextmanager
def hold_lock(paths: StackPaths) -> Iterator[None]:
    """Be the one supervisor of this folder; SluiceError when another one is.

    The kernel releases the lock when the process ends, however it ends.
    """
    with paths.lock.open("a+") as file:
        _acquire(file.fileno(), paths)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _acquire(descriptor: int, paths: StackPaths) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SluiceError(already_running(paths, paths.lock.read_text().strip())) from None
            time.sleep(0.05)
        else:
            return


def already_running(paths: StackPaths, pid: int | str) -> str:
    """Sentence for a second start in one folder."""
    return (
        f"a stack already runs in {paths.root} (supervisor pid {pid}): see `sluice status`, "
        "stop it with `sluice down`, or choose another folder with --dir"
    )


def stop_leftovers(paths: StackPaths, tell: Tell) -> int:
    """Stop what a dead supervisor left running and forget it; returns how many processes.

    Each one is named to `tell`. Call it only where no supervisor runs in the folder.
    """
    state = read_state(paths)
    if state is None:
        return 0
    leftovers = state.leftovers
    tell(_died(state))
    for process in leftovers:
        _stop_leftover(process, tell)
    paths.state.unlink(missing_ok=True)
    return len(leftovers)


def _stop_leftover(process: ProcessState, tell: Tell) -> None:
    if process.pid is None or process.started_at is None:
        return
    killed = end_group(process.pid, process.started_at, _LEFTOVER_WAIT_S)
    tell(f"stopped {process.name} (pid {process.pid}), left over by it{' (killed)' * killed}")
