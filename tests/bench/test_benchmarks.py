"""Every benchmark on a tiny workload: it runs, its sums hold, its report has the agreed shape.

No test looks at how fast anything was. They share one broker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sluice.bench import emitter, latency, overshoot, recovery, scale, sink, throughput
from sluice.bench.ground import Ground

pytestmark = pytest.mark.integration

EVENTS = 1500


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """One broker for all benchmarks; each has topics of its own."""
    with Ground() as made:
        yield made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded workloads shared by the tests."""
    return tmp_path_factory.mktemp("workloads")


def _figures(report: dict[str, Any], maybe_none: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Figures by name, after a look at what every report has to say; some may be 0."""
    machine = {"cpu", "cores", "memory_bytes", "python", "load_before"}
    assert machine <= report["machine"].keys()
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert len(figures) == len(report["figures"]) > 0
    for figure in figures.values():
        assert figure["value"] > 0 or figure["name"] in maybe_none
        assert figure["unit"]
        assert (figure["met"] is None) == (figure["reach"] is None)
    return json.loads(json.dumps(figures))  # type: ignore[no-any-return]


def _promised(figures: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, figure in figures.items() if figure["reach"] is not None}


def test_throughput(ground: Ground, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both profiles give exact rows; the limit and the peer find the same totals."""
    monkeypatch.setattr(throughput, "LIMIT_EVENTS", EVENTS)
    report = throughput.run(ground, EVENTS, 300, 1, cache)
    figures = _figures(report.as_dict())
    assert _promised(figures) == {
        "ledger_per_cpu_s", "ledger_of_limit", "full_per_cpu_s", "full_of_limit",
    }  # fmt: skip
    assert "peer_stock_faust_per_cpu_s" in figures
    assert [detail["events"] for detail in report.details] == [EVENTS, EVENTS]


def test_latency(ground: Ground, cache: Path) -> None:
    """Every trial gets its decision, idle and beside a load."""
    figures = _figures(latency.run(ground, EVENTS, 5, 1, cache).as_dict())
    assert _promised(figures) == {"idle_p50", "idle_p99", "half_p99"}
    for way in ("idle", "half", "across"):
        assert 0 < figures[f"{way}_p50"]["value"] <= figures[f"{way}_max"]["value"]


def test_recovery(ground: Ground) -> None:
    """A meter restores exactly the rows and ledgers that were written."""
    figures = _figures(recovery.run(ground, recovery.Size(4001, 399)).as_dict())
    assert _promised(figures) == {"recovery", "rss"}


def test_overshoot(ground: Ground) -> None:
    """Budgets of a short trace are used up, all of its spend is charged, and every point obeys."""
    report = overshoot.run(ground, overshoot.Size(3, 120, 60.0, 2))
    none = {"overspend_beyond_in_flight", "overspend", "in_flight_bound",
            "unspent_beyond_one_reservation"}  # fmt: skip
    figures = _figures(report.as_dict(), none)
    assert _promised(figures) == {
        "overspend_beyond_in_flight", "unspent_beyond_one_reservation", "obey_p99",
    }  # fmt: skip
    assert figures["overspend_beyond_in_flight"]["value"] == 0
    assert figures["admitted"]["value"] < 120


def test_sink(ground: Ground, cache: Path) -> None:
    """Stored events and window rows have the generator's sums."""
    figures = _figures(sink.run(ground, EVENTS, 1, cache).as_dict())
    assert _promised(figures) == {"events_per_wall_s"}


def test_scale(ground: Ground, cache: Path) -> None:
    """Two meters share the partitions and give exact rows too."""
    report = scale.run(ground, EVENTS, 2, 1, cache)
    _figures(report.as_dict())
    assert [detail["meters"] for detail in report.details] == [1, 2]


def test_emitter(ground: Ground) -> None:
    """Every emitted event is acknowledged and stands in the topic."""
    figures = _figures(emitter.run(ground, EVENTS, 1).as_dict())
    assert _promised(figures) == {"per_cpu_s"}
    assert figures["wal_bytes_per_event"]["value"] > figures["value_bytes_per_event"]["value"]


def test_command(tmp_path: Path) -> None:
    """The command prints one JSON document, ends with 0 and leaves no file and no process."""
    argv = [sys.executable, "-m", "sluice.cli", "bench", "emitter", "--events", "500", "--json"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["benchmark"] == "emitter"
    assert list(tmp_path.iterdir()) == []
    named = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    assert [line for line in named if str(tmp_path) in line] == []
