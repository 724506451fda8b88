"""What can be seen of one agent task, and how many of a tenant's requests are repeats.

Everything about a task follows from its sums (`metering.tasks`), so no state is kept here.
"""

from __future__ import annotations

from sluice.enforcement.signals.signal import PPM, Signal, ratio_ppm
from sluice.metering import loops
from sluice.metering.tasks import TaskSums

_PRESSURE_CALLS = 32  # as many as the share of repeats looks at


def loop(task: TaskSums, at_ppm: int = PPM) -> Signal:
    """1 while the newest tool calls go on with a repetition or a cycle, else 0."""
    value = PPM if task.looping else 0
    evidence = (("tool_calls", task.tool_calls), ("loop_pusd", task.loop_pusd))
    return Signal("loop", value, at_ppm, "ppm", "task", evidence)


def repetition(task: TaskSums, at_ppm: int) -> Signal | None:
    """Share of repeated runs of three tool calls among the last 32; None before there are 32."""
    score = loops.score_ppm(task.symbols) if len(task.symbols) >= _PRESSURE_CALLS else None
    if score is None:
        return None
    return Signal("repetition", score, at_ppm, "ppm", "task", (("tool_calls", task.tool_calls),))


def task_cost(task: TaskSums, at_ppm: int) -> Signal | None:
    """Cost so far as a multiple of what such tasks normally cost at most; None without a norm."""
    if task.baseline_pusd is None:
        return None
    value = ratio_ppm(task.cost_pusd, task.baseline_pusd)
    evidence = (("cost_pusd", task.cost_pusd), ("baseline_pusd", task.baseline_pusd))
    return Signal("task_cost", value, at_ppm, "ppm", "task", evidence)


def fan_out(task: TaskSums, at: int) -> Signal:
    """Most calls that one call made."""
    return Signal("fan_out", task.fan_out, at, "count", "task", (("events", task.events),))


def depth(task: TaskSums, at: int) -> Signal:
    """Deepest call of the task's tree."""
    return Signal("depth", task.depth, at, "count", "task", (("events", task.events),))


def retry_share(requests: int, retries: int, window: str, at_ppm: int) -> Signal:
    """Share of attempts that repeat an earlier one; a storm feeds on its own refusals."""
    evidence = (("requests", requests), ("retries", retries))
    return Signal("retry_share", ratio_ppm(retries, requests), at_ppm, "ppm", window, evidence)
