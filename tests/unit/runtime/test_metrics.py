"""Metrics: the README's table is the program's, and samples fit it."""

from __future__ import annotations

import re
from pathlib import Path

from sluice.runtime.metrics import METRICS, partition_samples

README = (Path(__file__).parents[3] / "README.md").read_text()


def test_the_readme_lists_every_metric() -> None:
    """Names, types, labels and meanings stand in one table of the README, in the same order."""
    found = re.findall(r"\| `(sluice_\w+)` \| (\w+) \| ([\w, -]+) \| (.+) \|", README)
    stated = [
        (name, kind, ", ".join(labels) or "-", meaning)
        for name, (kind, labels, meaning) in METRICS.items()
    ]
    assert found == stated


def test_a_partition_is_told_in_samples_of_the_table() -> None:
    """Counters, reasons, holes per producer and lag carry the labels that the table states."""
    status = {
        "partition": 3, "counters": {"events": 5, "dead_letters": 2, "dead_letters.truncated": 2},
        "windows": 1, "tasks": 2, "ledgers": 3, "leases": 1, "shares": 2, "sources": 4,
        "cohorts": 5, "missing_numbers": 6,
        "incomplete": {"gw": (6, 1, 0, 2)}, "watermark": 7_000_000, "lag": 9, "time": 90_000_000,
    }  # fmt: skip
    samples = list(partition_samples(status, ("usage.v1", 3), 100.0))
    assert all(len(labels) == len(METRICS[name][1]) for name, labels, _ in samples)
    assert ("sluice_dead_letters_total", ("3", "truncated"), 2) in samples
    assert ("sluice_incomplete_events", ("3", "gw", "lost"), 1) in samples
    assert ("sluice_lag_seconds", ("usage.v1", "3"), 10.0) in samples
    assert ("sluice_watermark_seconds", ("3",), 7.0) in samples
