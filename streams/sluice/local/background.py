"""Starting and stopping a supervisor from another process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from sluice.errors import SluiceError
from sluice.local.process import alive, rotate, tail
from sluice.local.stack import (
    ProcessState,
    StackPaths,
    StackState,
    Tell,
    already_running,
    hold_lock,
    read_state,
    stop_leftovers,
)
from sluice.local.supervisor import described

_POLL_S = 0.1
_SUPERVISOR = "supervisor"
# A process that crashed this often before the stack was ready is not going to start.
_MAX_CRASHES = 3
# Longest stop of all layers one after the other: workers, servers, then the broker.
_STOP_TIMEOUT_S = 90.0


def start_background(
    paths: StackPaths,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    wait: bool = True,
    timeout_s: float = 180.0,
    tell: Tell = lambda _: None,
) -> None:
    """Start the supervisor `argv` detached; with `wait`, return when all of its children are ready.

    Without `wait` it returns once the supervisor holds the folder. If a child cannot start, the
    stack is stopped again and SluiceError carries the end of that child's log.
    """
    paths.create()
    log = paths.log(_SUPERVISOR)
    rotate(log)
    with log.open("ab") as output:
        begin = output.tell()
        supervisor = subprocess.Popen(
            argv,
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    start = _Start(paths, supervisor, begin, time.monotonic() + timeout_s, tell)
    try:
        start.wait(all_ready=wait)
    except (SluiceError, KeyboardInterrupt):
        start.give_up()
        raise
    # It belongs to nobody now; the handle would complain that its process still runs.
    supervisor.returncode = 0


class _Start:
    def __init__(
        self,
        paths: StackPaths,
        supervisor: subprocess.Popen[bytes],
        log_begin: int,
        deadline: float,
        tell: Tell,
    ) -> None:
        self._paths = paths
        self._supervisor = supervisor
        self._log_begin = log_begin
        self._deadline = deadline
        self._tell = tell
        self._told: dict[str, str] = {}

    def wait(self, *, all_ready: bool) -> None:
        while True:
            if self._supervisor.poll() is not None:
                raise SluiceError(self._last_words())
            state = self._state()
            if state is not None and self._arrived(state, all_ready=all_ready):
                return
            if time.monotonic() > self._deadline:
                raise SluiceError(self._too_slow(state))
            time.sleep(_POLL_S)

    def _state(self) -> StackState | None:
        state = read_state(self._paths)
        return state if state and state.supervisor_pid == self._supervisor.pid else None

    def _arrived(self, state: StackState, *, all_ready: bool) -> bool:
        for process in state.processes:
            self._report(process)
            if process.state == "failed" or process.restarts >= _MAX_CRASHES:
                raise SluiceError(self._crashed(process))
        return not all_ready or all(p.state in ("ready", "done") for p in state.processes)

    def _report(self, process: ProcessState) -> None:
        if process.state != self._told.get(process.name, "waiting"):
            self._told[process.name] = process.state
            self._tell(described(process, self._paths))

    def _crashed(self, process: ProcessState) -> str:
        log = self._paths.log(process.name)
        return f"{process.name} does not start; {log} ends:\n{tail(log)}"

    def _too_slow(self, state: StackState | None) -> str:
        late = [p for p in state.processes if p.state not in ("ready", "done")] if state else []
        if not late:
            return f"the supervisor did not start in time; see {self._paths.log(_SUPERVISOR)}"
        names = ", ".join(p.name for p in late)
        log = self._paths.log(late[0].name)
        return f"{names} did not get ready in time; {log} ends:\n{tail(log)}"

    def _last_words(self) -> str:
        log = self._paths.log(_SUPERVISOR)
        said = log.read_bytes()[self._log_begin :].decode(errors="replace").strip()
        return said.splitlines()[-1] if said else f"the supervisor ended at once; see {log}"

    def give_up(self) -> None:
        if self._supervisor.poll() is not None:
            return
        self._supervisor.terminate()
        try:
            self._supervisor.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()


def refuse_second(paths: StackPaths) -> None:
    """Raise SluiceError when a supervisor runs in this folder."""
    state = read_state(paths)
    if state is not None and state.supervised:
        raise SluiceError(already_running(paths, state.supervisor_pid))


def stop_background(paths: StackPaths, tell: Tell = lambda _: None) -> bool:
    """Stop the supervisor and wait until everything has ended; False when nothing ran."""
    state = read_state(paths)
    if state is None:
        return False
    if not state.supervised:
        with hold_lock(paths):
            return stop_leftovers(paths, tell) > 0
    tell(f"stopping {', '.join(p.name for p in reversed(state.processes) if p.alive)}")
    os.kill(state.supervisor_pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while alive(state.supervisor_pid, state.supervisor_started_at):
        if time.monotonic() > deadline:
            raise SluiceError(
                f"the supervisor (pid {state.supervisor_pid}) does not end; see "
                f"{paths.log(_SUPERVISOR)}"
            )
        time.sleep(_POLL_S)
    return True
