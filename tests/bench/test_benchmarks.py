"""Every benchmark on a tiny workload: it runs, its sums hold, its report has the agreed shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.integration

EVENTS = "2000"
COMMANDS = {
    "throughput": ("--events", EVENTS, "--peer-events", "500"),
    "latency": ("--events", "6000", "--trials", "5"),
    "recovery": ("--rows", "4000", "--ledgers", "400"),
    "emitter": ("--events", EVENTS),
    "sink": ("--events", EVENTS),
    "scale": ("--events", EVENTS),
}
REACHES = {
    "throughput": {"ledger_per_cpu_s", "ledger_of_limit", "full_per_cpu_s", "full_of_limit"},
    "latency": {"idle_p50", "idle_p99", "half_p99"},
    "recovery": {"recovery", "rss"},
    "emitter": {"per_cpu_s"},
    "sink": {"events_per_wall_s"},
    "scale": set(),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded workloads shared by the tests."""
    return tmp_path_factory.mktemp("workloads")


@pytest.mark.parametrize("name", COMMANDS)
def test_benchmark(name: str, cache: Path, tmp_path: Path) -> None:
    """A benchmark ends with 0, prints its figures with reaches, and leaves nothing behind."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [*COMMANDS[name], *_cached(name, cache)]
    argv = [sys.executable, "-m", "sluice.cli", "bench", name, *words, "--json"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    _check_shape(name, report)
    assert list(tmp_path.iterdir()) == []
    assert _left_in(tmp_path) == []


def _cached(name: str, cache: Path) -> tuple[str, ...]:
    return () if name in ("recovery", "emitter") else ("--cache", str(cache))


def _check_shape(name: str, report: dict[str, Any]) -> None:
    assert report["benchmark"] == name
    assert {"cpu", "cores", "memory_bytes", "python", "load_before"} <= report["machine"].keys()
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert len(figures) == len(report["figures"]) > 0
    assert {n for n, figure in figures.items() if figure["reach"] is not None} == REACHES[name]
    for figure in figures.values():
        assert figure["value"] > 0
        assert figure["unit"]
        assert (figure["met"] is None) == (figure["reach"] is None)


def _left_in(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    named = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    return [line for line in named if str(folder) in line]
