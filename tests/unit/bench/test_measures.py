"""What the benchmarks compute apart from running processes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sluice.bench.drain import compare, passed
from sluice.bench.figures import Figure, Report
from sluice.bench.latency import spread
from sluice.bench.limit import READERS
from sluice.bench.recovery import Size, sample_rows
from sluice.bench.workload import Mix, Sums, Workload, make
from sluice.errors import SluiceError
from sluice.wire.column_types import Items, Numbers

NOW = 1_800_000_000_000_000
KEY = (NOW, "t", "p", "m", "")
ROW = {
    "window_start": NOW, "tenant_id": "t", "project_id": "p", "model": "m", "tool": "",
    "events": 2, "input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 3,
    "cost_pusd": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def work() -> Workload:
    """A small workload."""
    return make(Mix(2000))


def test_met() -> None:
    """A figure is met at its reach, from below or from above as it says."""
    assert Figure("a", 10, "ms", 10).met and not Figure("a", 10.1, "ms", 10).met
    assert Figure("a", 10, "x", 10, at_least=True).met
    assert not Figure("a", 9.9, "x", 10, at_least=True).met
    assert Figure("a", 1, "x").met is None


def test_report() -> None:
    """A report for programs names every figure with value, unit, reach and whether it was met."""
    shown = Report("b", {}, {}, [Figure("a", 3, "s", 2), Figure("c", 1, "s")]).as_dict()
    assert shown["figures"][0] == {
        "name": "a", "value": 3, "unit": "s", "reach": 2, "at_least": False, "met": False,
    }  # fmt: skip
    assert shown["met"] is False


def test_rows_that_agree() -> None:
    """Lanes of one window add up before they are compared."""
    twice = {key: 2 * ROW[key] for key in Sums._fields}  # type: ignore[operator]
    compare([ROW, ROW], {KEY: Sums(**twice)})


@pytest.mark.parametrize(
    "rows",
    [[], [ROW | {"cost_pusd": 41}], [ROW, ROW | {"tool": "other"}], [ROW, ROW]],
    ids=["missing", "one pico-dollar", "surplus row", "counted twice"],
)
def test_rows_that_differ(rows: list[dict[str, Any]]) -> None:
    """A row that is missing, surplus or wrong by one is found and named."""
    with pytest.raises(SluiceError, match="window rows are wrong"):
        compare(rows, {KEY: Sums(2, 10, 20, 3, 40)})


def test_passed() -> None:
    """A backlog is done when every end is reached, also where ticks went beyond it."""
    ends = {0: 10, 1: 20}
    assert passed({0: 10, 1: 20}, ends) and passed({0: 13, 1: 20, 2: 0}, ends)
    assert not passed({0: 10, 1: 19}, ends)
    assert not passed({0: 13}, ends)


def test_spread() -> None:
    """Percentiles of the numbers from 1 to 100."""
    assert spread([float(n) for n in range(1, 101)]) == (50.5, 95.05, 99.01, 100.0)


@pytest.mark.parametrize("reader", READERS)
def test_limit_readers(work: Workload, reader: str) -> None:
    """The limit finds every group and all sums, whatever the chunks and the reader."""
    if reader != "compiled":
        pytest.importorskip(reader)
    occurred_at = work.occurred_at(NOW)
    values = [value for _, value in work.records(occurred_at)]
    read, join = READERS[reader]
    found = join([read(values[:700]), read(values[700:])])
    assert found["events"] == len(work)
    assert found["rows"] == len(work.answer(occurred_at))
    assert found["input_tokens"] == work.input.sum()
    assert found["output_tokens"] == work.output.sum()
    assert found["cache_read_input_tokens"] == work.cached.sum()


def test_sample_rows() -> None:
    """Recovery writes rows that real usage made: priced, labelled, with histograms."""
    rows = sample_rows()
    assert rows.rows >= 100
    cost, events = (cast("Numbers", rows.columns[name]).value for name in ("cost_pusd", "events"))
    assert (cost > 0).all()
    assert len(set(events.tolist())) > 3
    for name in ("latency", "classes"):
        assert set(cast("Items", rows.columns[name]).row.tolist()) == set(range(rows.rows))


def test_size_adds_up() -> None:
    """Shares of all partitions are the whole size."""
    from sluice.bench.recovery import _share

    shares = [_share(Size(10, 3), number, 4) for number in range(4)]
    assert [sum(part) for part in zip(*shares, strict=True)] == [10, 3]
