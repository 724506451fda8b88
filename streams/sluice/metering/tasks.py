"""The agent task as a unit: what all calls of one task cost together, and whether that is normal.

Many cheap calls can make one ruinous task. With C the cost of a task so far and B its baseline, an
event's share of the task tail is max(0, C - B) after it minus max(0, C - B) before it: the shares
add up to the task's tail in whatever order the events arrive. It is a second view of the same
money: never add it to the events' own tails. `columnar.tasks` holds the tasks of a partition.
"""

from __future__ import annotations

from typing import NamedTuple

GAP_US = 600_000_000  # silent for longer: the task has ended
KEEP_US = 3_600_000_000  # silent for longer: what still comes opens a new part


class TaskKey(NamedTuple):
    """Identity of a task."""

    tenant_id: str
    task_id: str


class TaskLook(NamedTuple):
    """What signals see of a task; `repeated_ppm` is None until a whole look back of calls is known.

    Shares in parts per million, money in pico-USD; `baseline_pusd` None = it has no norm.
    """

    events: int
    tool_calls: int
    fan_out: int
    depth: int
    cost_pusd: int
    loop_pusd: int
    baseline_pusd: int | None
    looping: bool
    repeated_ppm: int | None
