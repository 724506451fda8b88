"""What a replay cost and why: shares, causes, tasks, and nothing where nothing is known."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from sluice.replay.screen import spend_table
from sluice.replay.spending import QUERIES, Spend, quantile, spend, spend_of, top

# 20 calls of 10..70 µUSD and one of 1,000: what ClickHouse would say, numbers as text.
_COSTS = [(10_000_000, 10), (50_000_000, 9), (70_000_000, 1), (1_000_000_000, 1)]
_TOTAL = 2_560_000_000
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "events": [{"n_events": "24", "n_cost": str(_TOTAL), "n_unpriced": "2", "n_good": "20"}],
    "costs": [{"n_cost": str(cost), "n_events": str(events)} for cost, events in _COSTS],
    "bands": [{"n_body": "1600000000", "n_shoulder": "60000000", "n_tail": "900000000",
               "n_unlabelled": "0", "n_packaged": "21",
               "by_tail": {"first_pass": "700000000", "retry": "200000000"},
               "by_overhead": {"first_pass": "2320000000", "loop": "80000000",
                               "retry": "160000000", "hedge": "0"}}],
    "tasks": [
        {"tenant_id": "a", "task_id": "1", "n_cost": "1000000000", "n_tools": "2", "n_calls": "3",
         "ended_as": "good"},
        {"tenant_id": "a", "task_id": "2", "n_cost": "600000000", "n_tools": "1", "n_calls": "4",
         "ended_as": "failed"},
        {"tenant_id": "b", "task_id": "1", "n_cost": "0", "n_tools": "0", "n_calls": "1",
         "ended_as": None},
    ],
    "task_rows": [{"n_tasks": "3", "n_tail": "400000000", "n_loop": "80000000"}],
}  # fmt: skip
NONE: dict[str, list[dict[str, Any]]] = {
    "events": [{"n_events": "0", "n_cost": "0", "n_unpriced": "0", "n_good": "0"}],
    "costs": [], "tasks": [],
    "bands": [{"n_body": None, "n_shoulder": None, "n_tail": None, "n_unlabelled": "0",
               "n_packaged": "0", "by_tail": {}, "by_overhead": {}}],
    "task_rows": [{"n_tasks": "0", "n_tail": None, "n_loop": "0"}],
}  # fmt: skip


def drawn(shown: Spend) -> str:
    """The table as it stands on a terminal."""
    out = io.StringIO()
    Console(file=out, width=120).print(spend_table(shown, 0))
    return out.getvalue()


def test_spend_above_p95_is_what_calls_cost_beyond_it() -> None:
    """Of 21 calls the 20th in order is the p95; only the excess of dearer ones counts."""
    found = spend(ANSWERS)
    assert found.p95_pusd == 70_000_000
    assert found.above_p95_pusd == 1_000_000_000 - 70_000_000
    assert found.above_p95_ppm == 930_000_000 * 1_000_000 // _TOTAL
    assert (found.events, found.unpriced) == (24, 2)
    assert found.per_good_pusd == _TOTAL // 20


def test_bands_and_causes_add_up_to_the_cost() -> None:
    """Bands and overhead causes are the whole cost, tail causes the tail, as the rows say."""
    bands = spend(ANSWERS).bands
    assert bands is not None
    assert bands.body_pusd + bands.shoulder_pusd + bands.tail_pusd == _TOTAL
    assert sum(bands.tail_by_cause.values()) == bands.tail_pusd
    assert sum(bands.overhead_by_cause.values()) == _TOTAL
    assert bands.tail_ppm == 900_000_000 * 1_000_000 // _TOTAL


def test_tasks_are_counted_with_cost_and_outcome() -> None:
    """Cost per task by nearest rank; a good task carries the cost of those that failed."""
    tasks = spend(ANSWERS).tasks
    assert tasks is not None
    assert (tasks.tasks, tasks.good, tasks.calls, tasks.tool_calls) == (3, 1, 8, 3)
    assert (tasks.p50_pusd, tasks.p95_pusd, tasks.max_pusd) == (600_000_000, 10**9, 10**9)
    assert tasks.per_good_pusd == 1_600_000_000
    assert (tasks.metered, tasks.task_tail_pusd, tasks.loop_pusd) == (3, 400_000_000, 80_000_000)


def test_what_is_not_known_is_none_and_never_zero() -> None:
    """Without calls, labels or tasks there is no quantile, no band and no cost per good end."""
    found = spend(NONE)
    assert found.p95_pusd is found.above_p95_ppm is found.per_good_pusd is None
    assert found.bands is found.tasks is None
    text = drawn(found)
    assert "not labelled" in text
    assert "tasks" not in text
    assert "unknown each" in text


def test_tasks_that_the_meter_did_not_see_have_no_tail() -> None:
    """A null sum of task tails and a sum over no tasks are unknown, not zero."""
    tasks = spend(ANSWERS | {"task_rows": NONE["task_rows"]}).tasks
    assert tasks is not None
    assert tasks.task_tail_pusd is tasks.loop_pusd is None
    assert "unknown, in loops unknown" in drawn(replace(spend(ANSWERS), tasks=tasks))


def test_every_question_names_the_replays_project() -> None:
    """All queries are asked, each about one project only."""
    asked: list[str] = []

    def rows(query: str) -> list[dict[str, Any]]:
        asked.append(query)
        (name,) = (n for n, text in QUERIES.items() if text.format(project="replay-r7") == query)
        return ANSWERS[name]

    assert spend_of(rows, "replay-r7") == spend(ANSWERS)
    assert len(asked) == len(QUERIES)
    assert all("project_id = 'replay-r7'" in query for query in asked)


@pytest.mark.parametrize(
    ("counted", "percent", "value"),
    [
        ([], 95, None),
        ([(5, 1)], 50, 5),
        ([(9, 1), (1, 19)], 95, 1),
        ([(9, 2), (1, 18)], 95, 9),
        ([(3, 1), (1, 1), (2, 1)], 50, 2),
        ([(0, 10**9), (7, 10**9)], 50, 0),
    ],
)
def test_quantiles_are_nearest_ranks(
    counted: list[tuple[int, int]], percent: int, value: int | None
) -> None:
    """The smallest value that at least so many percent do not exceed, in any order of pairs."""
    assert quantile(counted, percent) == value


def test_top_causes_are_the_largest_first() -> None:
    """Zeros are no causes, equals stand in the order of their names."""
    assert top({"loop": 5, "retry": 9, "hedge": 0, "abandoned": 5, "first_pass": 1}) == [
        ("retry", 9), ("abandoned", 5), ("loop", 5)
    ]  # fmt: skip
