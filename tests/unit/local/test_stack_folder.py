"""The stack folder: its state, its lock, and what a dead supervisor left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.errors import SluiceError
from sluice.local import stack
from sluice.local.process import alive, created_at, rotate, spawn, tail
from sluice.local.stack import (
    ProcessState,
    StackPaths,
    StackState,
    hold_lock,
    read_state,
    read_status,
    stop_leftovers,
    write_state,
)

SLEEPER = (sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)")
IGNORING = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)"
)
STUBBORN = (sys.executable, "-S", "-c", IGNORING)


@pytest.fixture
def paths(tmp_path: Path) -> StackPaths:
    """An empty stack folder."""
    return StackPaths(tmp_path / "stack").create()


@pytest.fixture
def dead_pid() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def sleeper(paths: StackPaths) -> Iterator[subprocess.Popen[bytes]]:
    """A child in its own group that ends on SIGTERM."""
    process = spawn(SLEEPER, paths.log("sleeper"))
    yield process
    process.kill()
    process.wait()


def _state(supervisor: int, *processes: ProcessState) -> StackState:
    return StackState(
        supervisor_pid=supervisor,
        supervisor_started_at=created_at(supervisor) or 1,
        endpoints={"kafka_bootstrap": "127.0.0.1:1"},
        settings={"partitions": 2},
        processes=processes,
    )


def _running(name: str, pid: int) -> ProcessState:
    return ProcessState(name, "ready", pid, created_at(pid))


def test_state_round_trips(paths: StackPaths) -> None:
    """What is written to stack.json is read back equal, every field of every process included."""
    state = _state(os.getpid(), ProcessState("meter-0", "backoff", None, 5, 6, 2, -9))
    write_state(paths, state)
    assert read_state(paths) == state


def test_state_has_the_documented_layout(paths: StackPaths) -> None:
    """Other programs find endpoints, supervisor_pid and a process by its name in stack.json."""
    write_state(paths, _state(7, ProcessState("kafka", "ready", 9)))
    content = json.loads(paths.state.read_text())
    assert content["endpoints"] == {"kafka_bootstrap": "127.0.0.1:1"}
    assert content["supervisor_pid"] == 7
    assert content["processes"]["kafka"]["pid"] == 9


def test_state_is_private_and_replaced_whole(paths: StackPaths) -> None:
    """Only the owner may read the state, and no half-written file stays beside it."""
    write_state(paths, _state(1))
    write_state(paths, _state(2))
    assert paths.state.stat().st_mode & 0o077 == 0
    assert sorted(p.name for p in paths.root.glob("stack*")) == ["stack.json"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"supervisor": 1}', '{"processes": {"a": {"x": 1}}}']
)
def test_foreign_state_is_named(paths: StackPaths, content: str) -> None:
    """A stack.json that is none raises an error that names the file and the way out."""
    paths.state.write_text(content)
    with pytest.raises(SluiceError, match=r"stack\.json is not a stack's state .* delete the file"):
        read_state(paths)


def test_second_holder_is_refused(paths: StackPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two supervisors cannot hold one folder; the error names the first one's pid."""
    monkeypatch.setattr(stack, "_LOCK_WAIT_S", 0.0)
    with (
        hold_lock(paths),
        pytest.raises(SluiceError, match=f"already runs .*pid {os.getpid()}"),
        hold_lock(paths),
    ):
        pass


def test_lock_is_free_again(paths: StackPaths) -> None:
    """A released folder can be held again."""
    with hold_lock(paths):
        pass
    with hold_lock(paths):
        assert paths.lock.read_text().strip() == str(os.getpid())


def test_a_reused_pid_is_not_our_process(sleeper: subprocess.Popen[bytes]) -> None:
    """A live pid counts only together with the start time recorded for it."""
    started = created_at(sleeper.pid)
    assert started is not None
    assert alive(sleeper.pid, started)
    assert not alive(sleeper.pid, started - 60_000_000)


def test_a_zombie_is_not_alive(paths: StackPaths) -> None:
    """A process that ended but was not waited for counts as gone."""
    process = spawn((sys.executable, "-S", "-c", ""), paths.log("short"))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert created_at(process.pid) is None
    process.wait()


def test_status_without_stack(tmp_path: Path) -> None:
    """A folder that never held a stack is simply not running."""
    status = read_status(tmp_path / "none")
    assert (status.running, status.ready, status.notes) == (False, False, ())


def test_status_of_a_running_stack(paths: StackPaths) -> None:
    """A live supervisor whose processes are ready or done makes a ready stack without notes."""
    state = _state(os.getpid(), ProcessState("a", "ready"), ProcessState("b", "done"))
    write_state(paths, state)
    status = read_status(paths.root)
    assert (status.running, status.ready, status.notes) == (True, True, ())
    write_state(paths, replace(state, processes=(ProcessState("a", "backoff"),)))
    assert not read_status(paths.root).ready


def test_status_names_leftovers(
    paths: StackPaths, sleeper: subprocess.Popen[bytes], dead_pid: int
) -> None:
    """After a supervisor's death the status says so and names what still runs."""
    gone = ProcessState("gone", "ready", dead_pid, 1)
    write_state(paths, _state(dead_pid, _running("kafka", sleeper.pid), gone))
    status = read_status(paths.root)
    assert not status.running
    assert f"supervisor (pid {dead_pid}) ended without a clean stop" in status.notes[0]
    assert [note.split()[0] for note in status.notes[1:]] == ["kafka"]


def test_leftovers_are_stopped_and_named(
    paths: StackPaths, sleeper: subprocess.Popen[bytes], dead_pid: int
) -> None:
    """The next start stops what a dead supervisor left, says so and forgets the old state."""
    write_state(paths, _state(dead_pid, _running("kafka", sleeper.pid)))
    told: list[str] = []
    assert stop_leftovers(paths, told.append) == 1
    assert sleeper.wait() == -signal.SIGTERM
    assert f"stopped kafka (pid {sleeper.pid})" in told[1]
    assert not paths.state.exists()


def test_stubborn_leftover_is_killed(
    paths: StackPaths, dead_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leftover that ignores SIGTERM is killed, and the sentence says so."""
    monkeypatch.setattr(stack, "_LEFTOVER_WAIT_S", 0.2)
    stubborn = spawn(STUBBORN, paths.log("stubborn"))
    while "up" not in tail(paths.log("stubborn")):
        assert stubborn.poll() is None
    write_state(paths, _state(dead_pid, _running("sink", stubborn.pid)))
    told: list[str] = []
    stop_leftovers(paths, told.append)
    assert stubborn.wait() == -signal.SIGKILL
    assert told[1].endswith("(killed)")


def test_a_live_supervisors_processes_are_no_leftovers(
    paths: StackPaths, sleeper: subprocess.Popen[bytes]
) -> None:
    """Nothing counts as left over while its supervisor lives."""
    assert _state(os.getpid(), _running("kafka", sleeper.pid)).leftovers == ()


def test_log_is_rotated_only_beyond_its_cap(tmp_path: Path) -> None:
    """A log at its cap stays, a larger one moves to .1 and replaces the one before."""
    log = tmp_path / "a.log"
    log.write_text("12345")
    rotate(log, cap_bytes=5)
    assert log.exists()
    rotate(log, cap_bytes=4)
    assert not log.exists()
    assert (tmp_path / "a.log.1").read_text() == "12345"


def test_tail_reads_only_the_end(tmp_path: Path) -> None:
    """The end of a log is its last lines, also when the window cuts a character in two."""
    log = tmp_path / "a.log"
    log.write_text("ä\n" * 1000 + "last\n")
    assert tail(log, lines=2, window_bytes=10).splitlines()[-1] == "last"
    assert tail(tmp_path / "none.log") == ""


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the way of the folder gives a sentence that names --dir."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SluiceError, match="choose another with --dir"):
        StackPaths(tmp_path / "file").create()
