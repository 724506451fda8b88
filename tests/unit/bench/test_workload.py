"""The generated workload: reproducible, valid, and with sums that are right."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sluice.bench.workload import (
    DISORDER_US,
    MODELS,
    TASK_EVENTS,
    Mix,
    Profile,
    Sums,
    Workload,
    load,
    make,
    models,
)
from sluice.metering.prices import default_book
from sluice.metering.rating import cost
from sluice.metering.validate import check_usage
from sluice.wire.codec import decode

COUNT = 3000
NOW = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def work() -> Workload:
    """A small workload of the full profile."""
    return make(Mix(COUNT))


@pytest.fixture(scope="module")
def events(work: Workload) -> list[dict[str, Any]]:
    """Its events as a reader sees them."""
    return [decode(value)[1] for _, value in work.records(work.occurred_at(NOW))]


def test_same_seed_same_bytes(work: Workload) -> None:
    """The seed and the profile decide every byte."""
    again = make(Mix(COUNT))
    assert again.buffer.tobytes() == work.buffer.tobytes()
    assert make(Mix(COUNT, seed=2)).buffer.tobytes() != work.buffer.tobytes()


def test_stamped_times(work: Workload) -> None:
    """Replaced times are read back exactly, at most two seconds out of order."""
    for first in (NOW, time.time_ns() // 1000, 300_000_000_000_000):
        occurred_at = work.occurred_at(first)
        read = [decode(value)[1] for _, value in work.records(occurred_at)]
        assert [event["occurred_at"] for event in read] == occurred_at.tolist()
        started = [event["started_at"] for event in read]
        assert started == (occurred_at - work.took_us).tolist()
        highest = np.maximum.accumulate(occurred_at)
        assert 0 < (highest - occurred_at).max() <= DISORDER_US


def test_valid(work: Workload, events: list[dict[str, Any]]) -> None:
    """The meter refuses none of the events, and each is keyed by its tenant."""
    keys = [key for key, _ in work.records(work.occurred_at(NOW))]
    for key, event in zip(keys, events, strict=True):
        check_usage(event, key, NOW + 60_000_000)


def test_numbered(events: list[dict[str, Any]]) -> None:
    """Every source counts from 1 per tenant without holes, in order."""
    numbers = defaultdict(list)
    for event in events:
        numbers[event["source"], event["tenant_id"]].append(event["source_seq"])
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


@pytest.mark.parametrize("profile", ["ledger", "full"])
def test_answer(profile: Profile) -> None:
    """The expected sums are those that the events have under the packaged prices, row by row."""
    work = make(Mix(COUNT, profile))
    occurred_at = work.occurred_at(NOW)
    sums: dict[Any, list[int]] = defaultdict(lambda: [0] * len(Sums._fields))
    for _, value in work.records(occurred_at):
        event = decode(value)[1]
        rated = cost(default_book(), event)
        assert rated is not None
        minute = event["occurred_at"] // 60_000_000 * 60_000_000
        key = (minute, event["tenant_id"], event["project_id"], event["response_model"],
               event["tool_name"] or "")  # fmt: skip
        parts = (1, event["input_tokens"], event["output_tokens"],
                 event["cache_read_input_tokens"], rated.cost_pusd)  # fmt: skip
        sums[key] = [have + more for have, more in zip(sums[key], parts, strict=True)]
    assert work.answer(occurred_at) == {key: Sums(*row) for key, row in sums.items()}


def test_another_epoch(work: Workload) -> None:
    """Another epoch makes new events of the same numbers, and changes nothing else."""
    occurred_at = work.occurred_at(NOW)
    first = [decode(value)[1] for _, value in work.records(occurred_at)]
    again = [decode(value)[1] for _, value in work.records(occurred_at, 12)]
    assert {event["source_epoch"] for event in first} == {"bench-0000000001"}
    assert again == [event | {"source_epoch": "bench-0000000012"} for event in first]


def test_shape(events: list[dict[str, Any]]) -> None:
    """About thirty fields are filled; tenants follow Zipf's law; all models occur."""
    filled = [sum(value not in (None, 0, []) for value in event.values()) for event in events]
    assert min(filled) >= 24
    tenants = Counter(event["tenant_id"] for event in events)
    assert tenants["tenant-000"] > 5 * tenants["tenant-009"]
    assert len({event["response_model"] for event in events}) == MODELS == len(models())


def test_profiles(events: list[dict[str, Any]]) -> None:
    """Only the full profile has latencies and tasks, and no task is longer than it should be."""
    ledger = make(Mix(COUNT, "ledger"))
    plain = [decode(value)[1] for _, value in ledger.records(ledger.occurred_at(NOW))]
    assert all(event["latency_us"] is None and event["task_id"] is None for event in plain)
    assert all(event["latency_us"] is not None for event in events)
    tasks = Counter(event["task_id"] for event in events if event["task_id"])
    assert 0.15 < tasks.total() / COUNT < 0.25
    assert max(tasks.values()) <= TASK_EVENTS


def test_kept(work: Workload, tmp_path: Path) -> None:
    """A kept workload is the one that was made, and is not made again."""
    told: list[str] = []
    first = load(Mix(COUNT), tmp_path / "kept", told.append)
    second = load(Mix(COUNT), tmp_path / "kept", told.append)
    assert len(told) == 1
    assert first.buffer.tobytes() == second.buffer.tobytes() == work.buffer.tobytes()
    assert second.answer(second.occurred_at(NOW)) == work.answer(work.occurred_at(NOW))
