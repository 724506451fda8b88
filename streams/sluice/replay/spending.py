"""What a replay's usage cost and why, from ClickHouse: share above p95, causes, tasks, good ends.

`spend_of` asks, the rest makes a Spend of the rows that came back. Quantiles are nearest ranks,
shares whole parts per million, amounts per good outcome rounded down to the pico-USD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice.replay.proof import Row, Rows

_PPM = 1_000_000
_SUM = "toString(sum(toInt128({0})))"
_OF_RUN = "FINAL WHERE project_id = '{project}'"
_USED = f"{_OF_RUN} AND event_type IN ('inference', 'embedding', 'tool')"
_GOOD = "slo_outcome = 'good' OR (slo_outcome IS NULL AND outcome IN ('ok', 'degraded'))"

# Names differ from those of columns: ClickHouse would take an alias for the column it hides.
QUERIES = {
    "events": (
        f"SELECT count() AS n_events, {_SUM.format('ifNull(cost_pusd, 0)')} AS n_cost, "
        f"countIf(cost_pusd IS NULL) AS n_unpriced, countIf({_GOOD}) AS n_good "
        f"FROM usage_events {_USED}"
    ),
    "costs": (
        "SELECT toString(assumeNotNull(cost_pusd)) AS n_cost, count() AS n_events "
        f"FROM usage_events {_USED} AND event_type != 'tool' AND cost_pusd IS NOT NULL "
        "GROUP BY n_cost"
    ),
    "bands": (
        f"SELECT {_SUM.format('body_pusd')} AS n_body, {_SUM.format('shoulder_pusd')} AS "
        f"n_shoulder, {_SUM.format('tail_pusd')} AS n_tail, sum(unlabelled) AS n_unlabelled, "
        "sum(packaged) AS n_packaged, sumMap(tail_by_cause) AS by_tail, "
        f"sumMap(overhead_by_cause) AS by_overhead FROM usage_windows {_OF_RUN}"
    ),
    "tasks": (
        f"SELECT tenant_id, task_id, {_SUM.format('ifNull(cost_pusd, 0)')} AS n_cost, "
        "countIf(event_type = 'tool') AS n_tools, countIf(event_type != 'tool') AS n_calls, "
        "argMaxIf(slo_outcome, occurred_at, slo_outcome IS NOT NULL) AS ended_as "
        f"FROM usage_events {_USED} AND task_id IS NOT NULL GROUP BY tenant_id, task_id"
    ),
    "task_rows": (
        f"SELECT uniqExact(tenant_id, task_id) AS n_tasks, {_SUM.format('task_tail_pusd')} AS "
        f"n_tail, {_SUM.format('loop_pusd')} AS n_loop FROM usage_tasks {_OF_RUN}"
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bands:
    """Cost against the baselines in force: body + shoulder + tail = cost; causes in pico-USD."""

    body_pusd: int
    shoulder_pusd: int
    tail_pusd: int
    tail_ppm: int | None
    tail_by_cause: dict[str, int]
    overhead_by_cause: dict[str, int]
    unlabelled: int
    packaged: int


@dataclass(frozen=True, slots=True)
class TaskSpend:
    """Agent tasks: costs per task from raw usage, tail and loops as the meter saw them.

    `metered` tasks are in usage_tasks: loops are None where none is, the tail where none has a
    baseline.
    """

    tasks: int
    good: int
    calls: int
    tool_calls: int
    p50_pusd: int
    p95_pusd: int
    max_pusd: int
    per_good_pusd: int | None
    metered: int
    task_tail_pusd: int | None
    loop_pusd: int | None


@dataclass(frozen=True, slots=True)
class Spend:
    """Cost of a replay. `above_p95_pusd` is what calls cost above the 95th percentile of calls.

    `bands` is None where nothing was labelled, `tasks` where the usage names none.
    """

    events: int
    cost_pusd: int
    unpriced: int
    p95_pusd: int | None
    above_p95_pusd: int
    above_p95_ppm: int | None
    good: int
    per_good_pusd: int | None
    bands: Bands | None
    tasks: TaskSpend | None


def spend_of(rows: Rows, project_id: str) -> Spend:
    """Ask ClickHouse about a replay's project."""
    asked = {name: rows(query.format(project=project_id)) for name, query in QUERIES.items()}
    return spend(asked)


def spend(asked: Mapping[str, Sequence[Row]]) -> Spend:
    """The Spend that the answers to QUERIES make."""
    (total,) = asked["events"]
    cost_pusd, good = int(total["n_cost"]), int(total["n_good"])
    costs = [(int(row["n_cost"]), int(row["n_events"])) for row in asked["costs"]]
    p95_pusd = quantile(costs, 95)
    above = sum((cost - (p95_pusd or 0)) * events for cost, events in costs
                if cost > (p95_pusd or 0))  # fmt: skip
    return Spend(
        events=int(total["n_events"]), cost_pusd=cost_pusd, unpriced=int(total["n_unpriced"]),
        p95_pusd=p95_pusd, above_p95_pusd=above, above_p95_ppm=ppm(above, cost_pusd),
        good=good, per_good_pusd=cost_pusd // good if good else None,
        bands=_bands(asked["bands"], cost_pusd), tasks=_tasks(asked["tasks"], asked["task_rows"]),
    )  # fmt: skip


def quantile(counted: Sequence[tuple[int, int]], percent: int) -> int | None:
    """The value at the nearest rank, of (value, how often) pairs; None of nothing."""
    rank = -(-sum(times for _, times in counted) * percent // 100)
    for value, times in sorted(counted):
        rank -= times
        if rank <= 0:
            return value
    return None


def ppm(part: int, whole: int) -> int | None:
    """`part` of `whole` in parts per million, rounded down; None of nothing."""
    return part * _PPM // whole if whole else None


def top(by_cause: Mapping[str, int], count: int = 3) -> list[tuple[str, int]]:
    """The largest amounts with their causes, zeros left out."""
    found = [(cause, amount) for cause, amount in by_cause.items() if amount]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:count]


def _bands(rows: Sequence[Row], cost_pusd: int) -> Bands | None:
    (row,) = rows
    if row["n_tail"] is None:
        return None
    body, shoulder, tail = (int(row[name]) for name in ("n_body", "n_shoulder", "n_tail"))
    return Bands(
        body, shoulder, tail, ppm(tail, cost_pusd), _amounts(row["by_tail"]),
        _amounts(row["by_overhead"]), int(row["n_unlabelled"]), int(row["n_packaged"]),
    )  # fmt: skip


def _amounts(by_cause: Mapping[str, Any]) -> dict[str, int]:
    return {cause: int(amount) for cause, amount in by_cause.items()}


def _tasks(rows: Sequence[Row], metered: Sequence[Row]) -> TaskSpend | None:
    if not rows:
        return None
    (kept,) = metered
    costs = [(int(row["n_cost"]), 1) for row in rows]
    good = sum(row["ended_as"] == "good" for row in rows)
    return TaskSpend(
        tasks=len(rows), good=good, calls=sum(int(row["n_calls"]) for row in rows),
        tool_calls=sum(int(row["n_tools"]) for row in rows),
        p50_pusd=quantile(costs, 50) or 0, p95_pusd=quantile(costs, 95) or 0,
        max_pusd=max(cost for cost, _ in costs),
        per_good_pusd=sum(cost for cost, _ in costs) // good if good else None,
        metered=int(kept["n_tasks"]),
        task_tail_pusd=None if kept["n_tail"] is None else int(kept["n_tail"]),
        # A sum over no rows is 0, but says nothing about loops.
        loop_pusd=int(kept["n_loop"]) if int(kept["n_tasks"]) else None,
    )  # fmt: skip
