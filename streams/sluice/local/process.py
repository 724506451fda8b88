"""Child processes: how one is described, started, watched and stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

State = Literal["waiting", "starting", "ready", "done", "backoff", "failed", "stopped"]

# sysexits: another start will not help.
EX_CONFIG = 78
# sysexits: an outside system is away, try again.
EX_TEMPFAIL = 75

LOG_CAP_BYTES = 10 * 2**20
_PR_SET_PDEATHSIG = 1
_CLOCK_SLACK_US = 2_000_000
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process of the stack; `env` is its whole environment, None = ours.

    `ready` is asked until it says True; without it a process counts as ready once it has run for
    a second. It starts when everything in `after` is ready. A `once` process is a step: it is done
    when it ends with 0. Exit code 78 means that a restart cannot help.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    ready: Callable[[], bool] | None = None
    after: tuple[str, ...] = ()
    once: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0


def spawn(
    argv: tuple[str, ...], log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, output appended to `log`.

    On Linux the child gets SIGTERM when the calling thread ends, however it ends: call it from a
    thread that lives as long as the child should.
    """
    parent = os.getpid()
    rotate(log)
    with log.open("ab") as output:
        # Between fork and exec only a prebound system call runs: it takes no lock that a thread
        # of ours could have held at the fork.
        return subprocess.Popen(
            argv,
            env=dict(os.environ if env is None else env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _end_with_parent(parent),  # noqa: PLW1509
        )


def _end_with_parent(parent: int) -> None:
    if _libc is None:
        return
    # SIGTERM and not SIGKILL: the broker then closes its log files cleanly.
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def rotate(log: Path, cap_bytes: int = LOG_CAP_BYTES) -> None:
    """Move a log that outgrew `cap_bytes` to `<name>.1`, replacing the older one."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > cap_bytes:
            log.replace(log.with_name(f"{log.name}.1"))


def tail(log: Path, lines: int = 15, window_bytes: int = 16_384) -> str:
    """Last lines of a log file, '' when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - window_bytes))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def created_at(pid: int) -> int | None:
    """Start of a live process in microseconds UTC; None when it is gone or a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() * 1_000_000)
    except psutil.NoSuchProcess:
        return None


def alive(pid: int, started_at: int) -> bool:
    """Whether the process that had `pid` at `started_at` (microseconds) still runs."""
    now = created_at(pid)
    # The kernel counts from boot; a stepped clock moves the derived time, not by this much.
    return now is not None and abs(now - started_at) < _CLOCK_SLACK_US


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the whole group of a child; nothing happens when it is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def end_group(pid: int, started_at: int, timeout_s: float) -> bool:
    """Stop a process that is not our child: SIGTERM, then SIGKILL; True when that was needed.

    Returns when it is gone, or at last after `timeout_s` twice.
    """
    signal_group(pid, signal.SIGTERM)
    if _gone(pid, started_at, timeout_s):
        return False
    signal_group(pid, signal.SIGKILL)
    _gone(pid, started_at, timeout_s)
    return True


def _gone(pid: int, started_at: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while alive(pid, started_at):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
