"""Loops: when an agent goes round in circles, and when it only looks like it."""

from __future__ import annotations

from typing import Any

from tests.builders import NOW, arrived
from tests.task_columns import Added, records_of, run_of

from sluice.metering.columnar.tasks import TaskTable


def tool(**over: Any) -> dict[str, Any]:
    """A tool call whose arguments are known by their hash."""
    base = {"event_type": "tool", "tool_name": "search", "tool_args_hash": "x", "result_hash": "r"}
    return arrived(**{"task_id": "t"} | base | over)


A, B, C = (tool(tool_args_hash=name) for name in "abc")
BAD = tool(tool_args_hash="a", outcome="error")


def is_looping(calls: list[dict[str, Any]]) -> bool:
    """Whether the last of a task's calls goes on with a repetition."""
    table = TaskTable()
    return bool(table.add(run_of([Added(call, NOW) for call in calls])).looping[-1])


def score_ppm(calls: list[dict[str, Any]]) -> int | None:
    """The loop score of a task as it is published."""
    table = TaskTable()
    table.add(run_of([Added(call, NOW) for call in calls]))
    score: int | None = records_of(table.rows(table.slots(), 1), 1)[0]["loop_score_ppm"]
    return score


def symbol_of(event: dict[str, Any]) -> int | None:
    """What a task remembers of a call."""
    table = TaskTable()
    table.add(run_of([Added(event, NOW)]))
    symbols = records_of(table.state_rows(table.slots()), 1)[0]["symbols"]
    return next(iter(symbols), None)


def test_the_fourth_same_call_is_a_loop() -> None:
    """Three equal results may be patience, four are a loop."""
    assert not is_looping([A, A, A])
    assert is_looping([B, A, A, A, A])


def test_the_third_same_failure_is_a_loop() -> None:
    """Failing the same way three times is enough."""
    assert not is_looping([A, BAD, BAD])
    assert is_looping([BAD, BAD, BAD])


def test_two_calls_in_turn_are_a_loop_at_the_third_round() -> None:
    """A-B-A-B may end; A-B-A-B-A-B does not."""
    assert not is_looping([A, B, A, B])
    assert not is_looping([A, B, A, B, A])
    assert is_looping([A, B, A, B, A, B])
    assert not is_looping([A, B, A, B, A, C])


def test_a_period_of_eight_is_the_longest() -> None:
    """Eight different calls three times over are a loop, nine are not looked for."""
    nine = [tool(tool_args_hash=name) for name in "123456789"]
    assert is_looping(nine[:8] * 3)
    assert not is_looping(nine * 3)


def test_polling_with_changing_results_is_no_loop() -> None:
    """The result is part of the symbol: the same question with another answer is another step."""
    calls = [tool(result_hash=f"r{k}") for k in range(8)]
    assert None not in map(symbol_of, calls)
    assert not is_looping(calls)


def test_a_symbol_tells_tool_arguments_result_and_failure_apart() -> None:
    """Each of the four changes it, the error flag only its lowest bit; the rest does not."""
    base = symbol_of(tool())
    others = [symbol_of(tool(**over)) for over in (
        {"tool_name": "fetch"}, {"tool_args_hash": "y"}, {"result_hash": "q"},
        {"outcome": "error"},
    )]  # fmt: skip
    assert base is not None
    assert len({base, *others}) == 5
    assert others[3] == base + 1
    assert symbol_of(tool(step=9, project_id="else")) == base


def test_without_hashed_arguments_there_is_no_symbol() -> None:
    """What cannot be compared is not counted, nor are model calls."""
    assert symbol_of(tool(tool_args_hash=None)) is None
    assert symbol_of(arrived(task_id="t", tool_args_hash="x")) is None


def test_the_score_is_the_share_of_repeated_runs_of_three() -> None:
    """A-A-A-A-A has runs AAA three times, two of them repeated; fewer than three calls: unknown."""
    assert score_ppm([A, A, A, A, A]) == 666_666
    assert score_ppm([A, B, C]) == 0
    assert score_ppm([A, B]) is None


def test_polling_without_hashed_results_is_no_loop() -> None:
    """Whether the results of successful calls were the same is unknown: no symbol, no loop."""
    assert symbol_of(tool(result_hash=None)) is None
    assert symbol_of(tool(result_hash=None, outcome="error")) is not None
