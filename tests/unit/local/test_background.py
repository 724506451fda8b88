"""A supervisor in the background: start, failure, stop, and what its own death leaves behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sluice.errors import SluiceError
from sluice.local.background import refuse_second, start_background, stop_background
from sluice.local.stack import StackPaths, StackState, read_state, read_status

SUPERVISOR = """
import sys
from pathlib import Path
from sluice.local.process import ProcessSpec
from sluice.local.stack import StackPaths, hold_lock, stop_leftovers
from sluice.local.supervisor import Backoff, Supervisor

paths = StackPaths(Path(sys.argv[1]))
def child(name, code, **more):
    return ProcessSpec(name, (sys.executable, "-S", "-c", code), **more)
specs = {specs}
with hold_lock(paths):
    stop_leftovers(paths, print)
    Supervisor(paths, specs, backoff=Backoff(0.01, 0.01), settle_s=0.0).run()
"""
TWO = """[child("broker", "import time; time.sleep(60)"),
    child("meter", "import time; time.sleep(60)", after=("broker",))]"""
CRASHING = """[child("broker", "import time; time.sleep(60)"),
    child("meter", "raise ValueError('no price book')", once=True)]"""
DEAF = """[child("deaf", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    f"open({str(paths.root / 'deaf')!r}, 'w').close(); time.sleep(60)",
    ready=(paths.root / "deaf").exists, stop_timeout_s=0.1)]"""


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[StackPaths]:
    """A stack folder; whatever still runs in it at the end is killed."""
    paths = StackPaths(tmp_path / "stack").create()
    yield paths
    state = read_state(paths)
    if state is not None:
        for pid in (state.supervisor_pid, *(p.pid for p in state.processes)):
            if pid is not None and psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)


def _argv(paths: StackPaths, specs: str) -> tuple[str, ...]:
    return (sys.executable, "-c", SUPERVISOR.replace("{specs}", specs), str(paths.root))


def _state(paths: StackPaths) -> StackState:
    state = read_state(paths)
    assert state is not None
    return state


def _end(state: StackState) -> None:
    """Kill the supervisor as the kernel would, and wait until it is gone."""
    os.kill(state.supervisor_pid, signal.SIGKILL)
    while state.supervised:
        pass


def test_up_and_down(paths: StackPaths) -> None:
    """After the start every child is ready; after the stop no process and no state is left."""
    told: list[str] = []
    start_background(paths, _argv(paths, TWO), tell=told.append)
    assert read_status(paths.root).ready
    assert [line for line in told if line.endswith("ready")] == ["broker ready", "meter ready"]
    pids = [p.pid for p in _state(paths).processes]
    assert stop_background(paths, told.append)
    assert told[-1] == "stopping meter, broker"
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)
    assert not read_status(paths.root).running


def test_stop_of_what_does_not_run(paths: StackPaths) -> None:
    """Stopping where nothing runs does nothing and says so."""
    assert not stop_background(paths)


def test_second_start_is_refused_twice_over(paths: StackPaths) -> None:
    """A second start is refused before its supervisor runs, and by that supervisor's lock."""
    start_background(paths, _argv(paths, TWO))
    with pytest.raises(SluiceError, match="already runs"):
        refuse_second(paths)
    with pytest.raises(SluiceError, match=f"already runs .*pid {_state(paths).supervisor_pid}"):
        start_background(paths, _argv(paths, TWO))
    assert read_status(paths.root).ready
    stop_background(paths)


def test_a_child_that_cannot_start_ends_the_start(paths: StackPaths) -> None:
    """The error carries the end of the child's log, and everything is stopped again."""
    with pytest.raises(SluiceError, match=r"(?s)meter does not start.*ValueError: no price book"):
        start_background(paths, _argv(paths, CRASHING))
    assert not paths.state.exists()


def test_a_supervisor_that_cannot_start_says_why(paths: StackPaths) -> None:
    """The last line that a failing supervisor wrote becomes the error."""
    argv = (sys.executable, "-c", "raise SystemExit('port 1 is taken')")
    with pytest.raises(SluiceError, match=r"^port 1 is taken$"):
        start_background(paths, argv)


def test_too_slow_names_who_is_late(paths: StackPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that takes too long names the processes that are not ready, and stops them."""
    never = '[child("broker", "import time; time.sleep(60)", ready=lambda: False)]'
    clock = [0.0]
    monkeypatch.setattr("sluice.local.background.time.monotonic", lambda: clock[0])

    def later(_line: str) -> None:
        clock[0] += 1000.0

    with pytest.raises(SluiceError, match="broker did not get ready in time"):
        start_background(paths, _argv(paths, never), tell=later)
    assert not paths.state.exists()


def test_without_waiting(paths: StackPaths) -> None:
    """A start that does not wait returns while children are still on their way."""
    never = '[child("broker", "import time; time.sleep(60)", ready=lambda: False)]'
    start_background(paths, _argv(paths, never), wait=False)
    status = read_status(paths.root)
    assert (status.running, status.ready) == (True, False)
    stop_background(paths)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_follow_a_killed_supervisor(paths: StackPaths) -> None:
    """A kill -9 of the supervisor ends its children too, and the status says what happened."""
    start_background(paths, _argv(paths, TWO))
    state = _state(paths)
    children = [psutil.Process(p.pid) for p in state.processes if p.pid]
    _end(state)
    gone, left = psutil.wait_procs(children, timeout=10)
    assert (len(gone), left) == (2, [])
    assert "ended without a clean stop" in read_status(paths.root).notes[0]


def test_next_start_stops_what_a_killed_supervisor_left(
    paths: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that outlived its supervisor is named and stopped by the next stop."""
    monkeypatch.setattr("sluice.local.stack._LEFTOVER_WAIT_S", 0.5)
    start_background(paths, _argv(paths, DEAF))
    state = _state(paths)
    _end(state)
    assert read_status(paths.root).notes[1].startswith("deaf (pid")
    told: list[str] = []
    assert stop_background(paths, told.append)
    assert told[-1].startswith("stopped deaf (pid")
    assert state.leftovers == ()
