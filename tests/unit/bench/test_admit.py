"""The benchmark of admission on a small load: it runs, and tells what it was asked."""

from __future__ import annotations

import json

from sluice.bench.admit import run
from sluice.bench.control_data import SHAPES, decisions, requests


def test_it_measures_every_promise() -> None:
    """Every figure is there with its reach, and the loads were applied; speed is not looked at."""
    told = list[str]()
    report = json.loads(json.dumps(run(100, 2000, 0.5, 1, told.append).as_dict()))
    reaches = {figure["name"]: figure["reach"] for figure in report["figures"]}
    assert reaches == {
        "admit, one thread, p50": 10, "admit, one thread, p99": 50,
        "admit, 16 threads, p99": 300, "admit, 16 threads, p99.9": None,
        "reserve and commit, p50": None, "reserve and commit, p99": 200, "cold start": 2,
    }  # fmt: skip
    assert all(figure["value"] >= 0 for figure in report["figures"])
    counts = {line["what"]: line["value"] for line in report["details"]}
    assert counts["requests in the open loop"] >= 500
    assert counts["control messages applied beside them"] > 50
    assert told


def test_the_same_seed_asks_the_same() -> None:
    """Requests follow from their seed, decisions from the number of tenants."""
    assert requests(10, 50, 3) == requests(10, 50, 3) != requests(10, 50, 4)
    keys = [key for key, _ in decisions(5)]
    assert len(set(keys)) == 5 * SHAPES
