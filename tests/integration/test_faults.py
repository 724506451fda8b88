"""Everything that can go wrong, once each and eight kills, on one pipeline of real processes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from confluent_kafka import Producer
from tests.faults.chaos import Chaos
from tests.faults.feeder import Feeder
from tests.faults.gaps import Gaps
from tests.faults.pipeline import Pipeline
from tests.faults.truth import compare
from tests.integration.conftest import until

from sluice.errors import OutsideError
from sluice.runtime.checkpoint import LAYOUT_VERSION, MARKER_KEY, Marker, _encode
from sluice.runtime.worker import EXIT_CONFIG
from sluice.settings import Settings
from sluice.warehouse.client import query_text
from sluice.wire.codec import decode
from sluice.wire.kafka import producer_config, topics
from sluice.wire.scan import committed_records

SEED = 20
KILLS = 8
BACKLOG = 60_000
FLOOD_TENANTS = 400


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One pipeline for this module, its tests in their order."""
    made = Pipeline(tmp_path_factory.mktemp("faults"), chunk_records=300, checkpoint_ms=200)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def feeder(pipeline: Pipeline) -> Feeder:
    """Usage that flows through the first two tests."""
    made = Feeder(pipeline.settings, SEED, 60.0)
    made.start()
    return made


def test_restarts_and_rebalances_are_short(pipeline: Pipeline, feeder: Feeder) -> None:
    """A killed worker is back within its session, a join and a leave stop nobody for long."""
    gaps = Gaps(pipeline.settings)
    until(lambda: len(gaps.longest(0.0)) == pipeline.settings.partitions, what="commits everywhere")
    measured: dict[str, dict[int, float]] = {}
    pauses: dict[str, float] = {}
    for name, act, pause_s in (
        ("kill", lambda: pipeline.kill("meter-0"), 14),
        ("join", lambda: pipeline.join(1), 16),
        ("leave", lambda: pipeline.leave(1), 18),
    ):
        since = time.monotonic()
        act()
        time.sleep(pause_s)
        measured[name], pauses[name] = gaps.longest(since), pause_s
    gaps.close()
    print(f"longest time without a commit, seconds by partition: {measured}")
    # Within the pause every partition committed again.
    assert all(longest < pauses[name] for name, by in measured.items() for longest in by.values())


def test_a_backlog_with_clickhouse_away_is_bounded_and_decided(
    pipeline: Pipeline, feeder: Feeder
) -> None:
    """Memory stays, decisions go on without ClickHouse, and the sink catches up afterwards."""
    settings = pipeline.settings
    watched = {name: _rss(pipeline, name) for name in ("meter-0", "sink")}
    peaks = dict(watched)
    with pipeline.without("clickhouse"):
        feeder.flood(BACKLOG, FLOOD_TENANTS)
        begun = time.monotonic()
        while _flood_decisions(settings) < FLOOD_TENANTS:
            assert time.monotonic() - begun < 120
            peaks = {name: max(peak, _rss(pipeline, name)) for name, peak in peaks.items()}
        time.sleep(5)  # the sink has taken all that it will hold
        decided_s = time.monotonic() - begun
    peaks = {name: max(peak, _rss(pipeline, name)) for name, peak in peaks.items()}
    back = time.monotonic()
    query = "SELECT count() FROM usage_events FINAL WHERE source = 'gw-flood'"
    until(lambda: _stored(settings, query) == BACKLOG, timeout_s=120, what="the whole backlog")
    grown = {name: (peaks[name] - rss) // 2**20 for name, rss in watched.items()}
    print(f"{BACKLOG} events: decided in {decided_s:.1f} s, stored {time.monotonic() - back:.1f} s "
          f"after ClickHouse was back; memory grew by MiB {grown}")  # fmt: skip
    assert grown["meter-0"] < 150
    assert grown["sink"] < 250


def _rss(pipeline: Pipeline, name: str) -> int:
    return int(psutil.Process(pipeline.process(name).pid).memory_info().rss)


def _flood_decisions(settings: Settings) -> int:
    """Tenants of the flood that were blocked."""
    blocked = set()
    for record in committed_records(settings, topics(settings).control):
        name, fields = decode(record.value) if record.value else ("", {})
        if name == "Decision" and fields["action"] == "block":
            blocked.add(fields["scope"]["tenant_id"])
    return sum(str(tenant).startswith("flood-") for tenant in blocked)


def _stored(settings: Settings, query: str) -> int:
    try:
        return int(query_text(settings, query, "TabSeparated"))
    except OutsideError:
        return -1


def test_nothing_differs_after_eight_kills_and_each_fault(
    pipeline: Pipeline, feeder: Feeder
) -> None:
    """Totals, budgets, decisions, dead letters and rows equal the oracle's after every fault."""
    rng = random.Random(SEED)
    chaos = Chaos(pipeline, feeder, rng)
    pipeline.join(1)
    others = sorted(chaos.faults)
    rng.shuffle(others)
    order = ["kill_meter"] * KILLS + others
    print(f"seed {SEED}: {order}")
    for name in order:
        time.sleep(rng.uniform(0.5, 2.5))
        chaos.faults[name]()
    counted = compare(pipeline, feeder)
    print(f"{counted}, ends {pipeline.exits}")
    assert counted["decisions"] > 20
    assert counted["dead_letters"] >= 20


def test_state_of_another_layout_is_refused_with_a_sentence(pipeline: Pipeline) -> None:
    """A meter that finds a foreign layout ends with the code that nobody restarts, and says why."""
    for slot in [int(name.removeprefix("meter-")) for name in pipeline.meters()]:
        pipeline.leave(slot)
    settings = pipeline.settings
    producer = Producer(producer_config(settings))
    foreign = _encode(Marker(0, 9, 9, LAYOUT_VERSION + 1))
    names = topics(settings)
    producer.produce(names.meter_state, b"no row of this version", b"?", partition=0)
    producer.produce(names.meter_state, foreign, MARKER_KEY, partition=0)
    assert producer.flush(30) == 0
    pipeline.join(0)
    until(lambda: ("meter-0", EXIT_CONFIG) in pipeline.exits, what="the refusal")
    said = (settings.dir / "meter-0.log").read_text()
    pipeline.leave(0)
    assert f"holds state of layout {LAYOUT_VERSION + 1}, this version reads" in said


def test_a_worker_too_many_is_refused_with_a_sentence(pipeline: Pipeline) -> None:
    """A slot that no partition is left for ends at once and says what to do."""
    argv = [sys.executable, "-m", "sluice.cli", "meter", "--slot", "4"]
    done = subprocess.run(
        [*argv, "--dir", str(pipeline.settings.dir)], capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_CONFIG
    assert "run slots 0 to 3" in " ".join(done.stderr.split())
