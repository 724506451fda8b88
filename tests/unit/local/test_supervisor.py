"""The supervisor: order, restarts, steps, clean stops. The children are real small processes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sluice.errors import ConfigError
from sluice.local.process import ProcessSpec
from sluice.local.stack import ProcessState, StackPaths, read_state
from sluice.local.supervisor import Backoff, Supervisor, in_order

QUICK = Backoff(first_s=0.01, longest_s=0.02)


def python(code: str) -> tuple[str, ...]:
    """Command line of a small Python child."""
    return (sys.executable, "-S", "-c", code)


def serving(mark: Path) -> tuple[str, ...]:
    """A child that makes `mark` and then runs until it is stopped."""
    return python(f"import time; open({str(mark)!r}, 'w').close(); time.sleep(60)")


def service(name: str, folder: Path, *after: str) -> ProcessSpec:
    """A well-behaved service that is ready when its mark is there."""
    mark = folder / f"{name}.mark"
    return ProcessSpec(name, serving(mark), ready=mark.exists, after=after)


class Run:
    """One supervised run in this process that ends at the first line `last`."""

    def __init__(self, folder: Path, *specs: ProcessSpec, last: str) -> None:
        self.paths = StackPaths(folder / "stack").create()
        self.lines: list[str] = []
        self.seen: dict[str, ProcessState] = {}
        self._last = last
        self.supervisor = Supervisor(
            self.paths, specs, backoff=QUICK, settle_s=0.0, tell=self._heard
        )
        self.supervisor.run()

    def _heard(self, line: str) -> None:
        self.lines.append(line)
        if line == self._last:
            self.seen = {c.spec.name: c.record for c in self.supervisor.children.values()}
            os.kill(os.getpid(), signal.SIGTERM)


def test_starts_in_order_and_stops_in_reverse(tmp_path: Path) -> None:
    """A process starts when all it comes after are ready, and ends before they do."""
    broker, meter = service("broker", tmp_path), service("meter", tmp_path, "broker")
    run = Run(tmp_path, meter, broker, last="meter ready")
    assert run.lines == [
        "broker starting", "broker ready", "meter starting", "meter ready",
        "meter stopped", "broker stopped",
    ]  # fmt: skip


def test_a_crashed_process_comes_back(tmp_path: Path) -> None:
    """A process that crashes twice is started a third time; crashes and exit code are counted."""
    mark = tmp_path / "mark"
    code = (
        f"import sys, time, pathlib; mark = pathlib.Path({str(mark)!r})\n"
        "tries = mark.read_text() if mark.exists() else ''\n"
        "mark.write_text(tries + 'x')\n"
        "sys.exit(3) if len(tries) < 2 else time.sleep(60)"
    )
    spec = ProcessSpec(
        "meter", python(code), ready=lambda: mark.exists() and mark.read_text() == "xxx"
    )
    run = Run(tmp_path, spec, last="meter ready")
    assert run.lines[:2] == ["meter starting", "meter ended with 3; restart 1 follows"]
    assert (run.seen["meter"].restarts, run.seen["meter"].exit_code) == (2, 3)


def test_a_crash_does_not_touch_the_others(tmp_path: Path) -> None:
    """A process that comes after a crashing one keeps its pid."""
    broker = service("broker", tmp_path)
    meter = service("meter", tmp_path, "broker")
    killed: list[int] = []

    class Crash(Run):
        def _heard(self, line: str) -> None:
            children = self.supervisor.children
            if line == "meter ready":
                killed.append(children["meter"].record.pid or 0)
                os.kill(children["broker"].record.pid or 0, signal.SIGKILL)
            if line == "broker ready" and killed:
                line = "over"
            super()._heard(line)

    run = Crash(tmp_path, broker, meter, last="over")
    assert run.seen["broker"].exit_code == -signal.SIGKILL
    assert (run.seen["meter"].pid, run.seen["meter"].restarts) == (killed[0], 0)


def test_a_hopeless_process_is_left_alone(tmp_path: Path) -> None:
    """Exit code 78 means that a restart cannot help: no restart, nothing after it starts."""
    policy = ProcessSpec("policy", python("raise SystemExit(78)"))
    meter = service("meter", tmp_path, "policy")
    failed = f"policy failed and is not restarted; see {tmp_path}/stack/logs/policy.log"
    run = Run(tmp_path, policy, meter, last=failed)
    assert (run.seen["policy"].state, run.seen["policy"].restarts) == ("failed", 0)
    assert run.seen["meter"].state == "waiting"


def test_a_command_that_does_not_exist_fails(tmp_path: Path) -> None:
    """A missing program is a failure whose log says which one, not a crash of the supervisor."""
    spec = ProcessSpec("meter", (str(tmp_path / "no-such-program"),))
    run = Run(
        tmp_path,
        spec,
        last=f"meter failed and is not restarted; see {tmp_path}/stack/logs/meter.log",
    )
    assert "no-such-program cannot be started" in run.paths.log("meter").read_text()


def test_a_step_runs_until_it_succeeds(tmp_path: Path) -> None:
    """A step that ends with 75 is tried again; when it is done, what comes after it starts."""
    mark = tmp_path / "tried"
    code = (
        f"import pathlib; mark = pathlib.Path({str(mark)!r}); again = not mark.exists();"
        "mark.touch(); raise SystemExit(75 if again else 0)"
    )
    step = ProcessSpec("topics", python(code), once=True)
    run = Run(tmp_path, step, service("meter", tmp_path, "topics"), last="meter ready")
    assert run.lines[1:4] == [
        "topics ended with 75; restart 1 follows", "topics starting", "topics done",
    ]  # fmt: skip
    assert run.seen["topics"].pid is None


def test_a_stubborn_process_is_killed_with_its_own_children(tmp_path: Path) -> None:
    """What ignores SIGTERM is killed at its time-out, and so is what it had started itself."""
    mark = tmp_path / "pids"
    code = (
        "import os, signal, subprocess, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "kid = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(mark)!r}).write_text(f'{{os.getpid()}} {{kid.pid}}\\n')\n"
        "time.sleep(60)"
    )
    spec = ProcessSpec(
        "engine",
        python(code),
        ready=lambda: mark.exists() and mark.read_text().endswith("\n"),
        stop_timeout_s=0.2,
    )
    Run(tmp_path, spec, last="engine ready")
    parent, kid = map(int, mark.read_text().split())
    assert not psutil.pid_exists(parent)
    psutil.wait_procs([psutil.Process(kid)] if psutil.pid_exists(kid) else [], timeout=5)
    assert not psutil.pid_exists(kid) or psutil.Process(kid).status() == psutil.STATUS_ZOMBIE


def test_the_state_file_follows_and_goes(tmp_path: Path) -> None:
    """stack.json shows pid and status while the stack runs and is gone after a clean stop."""
    shown: list[ProcessState] = []

    class Watch(Run):
        def _heard(self, line: str) -> None:
            state = read_state(self.paths)
            shown.extend(state.processes if state else ())
            super()._heard(line)

    run = Watch(tmp_path, service("meter", tmp_path), last="meter ready")
    starting = next(state for state in shown if state.state == "starting")
    assert starting.pid == run.seen["meter"].pid
    assert starting.started_at is not None
    assert not run.paths.state.exists()


def test_logs_are_appended(tmp_path: Path) -> None:
    """A restarted process writes behind what it wrote before, errors included."""
    mark = tmp_path / "mark"
    code = (
        "import sys, time, pathlib; print('out', flush=True); sys.stderr.write('err\\n')\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists(): mark.touch(); sys.exit(1)\n"
        "mark.write_text('twice'); time.sleep(60)"
    )
    spec = ProcessSpec("a", python(code), ready=lambda: mark.exists() and mark.read_text() != "")
    run = Run(tmp_path, spec, last="a ready")
    assert run.paths.log("a").read_text() == "out\nerr\n" * 2


def test_environment_of_a_child_is_the_one_given(tmp_path: Path) -> None:
    """A spec with an environment gets that one and nothing of ours."""
    code = "import os; print(os.environ.get('PATH'), os.environ.get('SLUICE_DIR'))"
    spec = ProcessSpec("step", python(code), env={"SLUICE_DIR": "here"}, once=True)
    run = Run(tmp_path, spec, last="step done")
    assert run.paths.log("step").read_text() == "None here\n"


@pytest.mark.parametrize(
    ("previous_s", "uptime_s", "next_s"),
    [(0, 0, 1), (1, 5, 2), (2, 59.9, 4), (16, 0, 30), (30, 0, 30), (30, 60, 1)],
)
def test_backoff(previous_s: float, uptime_s: float, next_s: float) -> None:
    """Waits double from 1 s to 30 s and begin anew after a minute of health."""
    assert Backoff().after_crash(previous_s, uptime_s) == next_s


@pytest.mark.parametrize("after", [("a",), ("b",), ("nowhere",)])
def test_impossible_order(after: tuple[str, ...]) -> None:
    """A cycle or an unknown name is refused before anything starts."""
    specs = [ProcessSpec("a", ("x",), after=after), ProcessSpec("b", ("x",), after=("a",))]
    with pytest.raises(ConfigError, match="no start order for a, b"):
        in_order(specs)


def test_signals_are_handed_back(tmp_path: Path) -> None:
    """After a run the process has its own signal handlers again."""
    before: Callable[..., object] | int | None = signal.getsignal(signal.SIGTERM)
    Run(tmp_path, service("a", tmp_path), last="a ready")
    assert signal.getsignal(signal.SIGTERM) == before
