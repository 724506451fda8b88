"""One event in every sum: producer, window, task, cohort, ledger; all of them or none."""

from __future__ import annotations

from typing import Any

from tests.builders import (
    MODEL,
    NOW,
    TOPICS,
    activate,
    cohort_rows,
    governed,
    record,
    sums_of,
    task_rows,
    tick,
    usage,
    window_rows,
)

from sluice.metering.baselines import Baseline, Norm
from sluice.metering.tasks import TaskKey
from sluice.runtime.partition import Partition
from sluice.wire.codec import decode

HOUR_US = 3_600_000_000
BIG = 9 * 10**18


def billed(number: int, cost: int, **over: Any) -> dict[str, Any]:
    """An event with the provider's bill."""
    return usage(number, cost_pusd=cost, cost_source="provider", **over)


def correction(number: int, delta: int, before: int | None = None, **over: Any) -> dict[str, Any]:
    """A correction without deltas of tokens."""
    base = {"event_type": "correction", "corrects_event_id": "e", "original_cost_pusd": before,
            "input_tokens": 0, "output_tokens": 0}  # fmt: skip
    return billed(number, delta, **base | over)


def applied(*events: dict[str, Any]) -> Partition:
    """A governed partition that took these events."""
    part, _, start = governed()
    part.apply([*start, *(record(2 + k, event) for k, event in enumerate(events))])
    return part


def test_the_measured_baseline_switches_in_band() -> None:
    """The event before the activation is judged by the packaged baseline, the one after by it."""
    part, references, start = governed()
    norm = Baseline(1, {("chat", MODEL, "1k", ""): Norm(1, 10_000_000, 200)}, {})
    name = ("baseline", "default", norm.version)
    references.held[name] = norm
    part.apply([*start, record(2, usage(1)), activate(3, name), record(4, usage(2))])
    (row,) = window_rows(part.state).values()
    assert (row.packaged, row.unlabelled, row.baseline_version) == (1, 0, norm.version)
    # 30,000,000 each: below the packaged median of 112,850,000, then over 1 and 10,000,000.
    assert (row.body_pusd, row.shoulder_pusd, row.tail_pusd) == (30_000_001, 9_999_999, 20_000_000)


def test_a_withdrawn_baseline_leaves_the_packaged_one() -> None:
    """An empty version takes the measured baseline out of force."""
    part, references, start = governed()
    norm = Baseline(1, {("chat", MODEL, "1k", ""): Norm(1, 2, 200)}, {})
    references.held["baseline", "default", norm.version] = norm
    part.apply([*start, activate(2, ("baseline", "default", norm.version)),
                activate(3, ("baseline", "default", "")), record(4, usage(1))])  # fmt: skip
    (row,) = window_rows(part.state).values()
    assert (part.state.header.baseline, row.packaged, row.baseline_version) == (None, 1, None)


def test_a_loop_costs_its_task_and_is_no_norm() -> None:
    """Five same tool calls: two of them are the loop's, and its cohort holds the other three."""
    tool = {"event_type": "tool", "operation_name": "execute_tool", "tool_name": "s",
            "tool_args_hash": "x", "result_hash": "r", "task_id": "t", "input_tokens": 0,
            "output_tokens": 0}  # fmt: skip
    part = applied(*(billed(k, 10, **tool) for k in range(1, 6)))
    (row,) = window_rows(part.state).values()
    (task,) = task_rows(part.state).values()
    (cohort,) = cohort_rows(part.state).values()
    assert row.overhead_by_cause[-1] == {"key": "loop", "value": task.loop_pusd}
    assert task.loop_pusd == 20
    assert (task.tool_calls, cohort.events) == (5, 3)


def test_a_duplicate_adds_to_nothing_but_its_counter() -> None:
    """Window, task and cohort hold one event after two deliveries."""
    part = applied(usage(1, task_id="t"), usage(1, task_id="t"))
    tables: list[Any] = [window_rows(part.state), task_rows(part.state),
                         cohort_rows(part.state)]  # fmt: skip
    assert [next(iter(table.values())).events for table in tables] == [1, 1, 1]
    assert part.state.header.counters["duplicates"] == 1


def test_a_future_event_counts_in_the_hour_of_its_arrival() -> None:
    """A clock a day ahead opens no cohort of tomorrow."""
    part = applied(usage(1, occurred_at=NOW + 20 * HOUR_US))
    assert [key.hour_start for key in part.state.cohorts.hours()] == [NOW]
    assert part.state.header.counters["clamped"] == 1


def test_an_unnumbered_event_from_the_future_is_applied_once() -> None:
    """Sent again two hours later it is still a duplicate."""
    part, _, start = governed()
    event = usage(1, source_seq=None, occurred_at=NOW + 20 * HOUR_US)
    part.apply([*start, record(2, event), record(3, event, at=NOW + 2 * HOUR_US)])
    assert part.state.header.counters["events"] == 1


def refused(part: Partition, event: dict[str, Any]) -> bool:
    """Whether an event went to the dead-letter topic without touching any sum."""
    before = sums_of(part.state)
    part.apply([record(50, event)])
    reason = "dead_letters.sum_overflow"
    return part.state.header.counters.get(reason) == 1 and sums_of(part.state) == before


def test_a_full_ledger_refuses_the_event_everywhere() -> None:
    """Another window and task would have room, the day's budget has not."""
    part = applied(billed(1, BIG, occurred_at=NOW - 200_000_000, started_at=NOW - 200_000_000))
    assert refused(part, billed(2, BIG, project_id="other", task_id="t"))


def test_a_full_task_refuses_the_event_everywhere() -> None:
    """Two days' budgets have room, the one task has not."""
    day = 86_400_000_000
    part = applied(billed(1, BIG, task_id="t", started_at=NOW - 2 * day, project_id="a"))
    assert refused(part, billed(2, BIG, task_id="t", project_id="b"))


def test_corrected_spend_beyond_64_bits_is_refused() -> None:
    """Settled spend would fit, the signed sum of corrections would not."""
    events = [billed(1, BIG), correction(2, -BIG, project_id="a"), billed(3, BIG, project_id="b")]
    assert refused(applied(*events), correction(4, -BIG, project_id="c"))


def test_a_row_full_of_task_tails_refuses_another() -> None:
    """The tails of two tasks that were paid for elsewhere meet in one row."""
    tool = {"event_type": "tool", "operation_name": "execute_tool", "input_tokens": 0,
            "output_tokens": 0}  # fmt: skip
    day = 86_400_000_000
    events = [
        billed(k, BIG, task_id=f"t{k}", project_id=f"p{k}", started_at=NOW - k * day, **tool)
        for k in (1, 2)
    ]
    part = applied(*events, usage(3, task_id="t1", started_at=NOW - 3 * day))
    assert task_rows(part.state)[TaskKey("acme", "t1")].baseline_pusd is not None
    assert refused(part, usage(4, task_id="t2", started_at=NOW - 3 * day))


def test_a_full_cohort_refuses_nobody() -> None:
    """Two tenants' absurd bills fit their own rows; the hour they share takes one of them."""
    part = applied(billed(1, BIG), billed(2, BIG, tenant_id="beta"))
    (cohort,) = cohort_rows(part.state).values()
    assert (part.state.header.counters["events"], cohort.events) == (2, 1)
    part.apply([tick(9, NOW + HOUR_US)])
    assert any(out.topic == TOPICS.partials for out in part.take())


def test_a_correction_opens_a_part_that_is_published_and_forgotten() -> None:
    """A token-only correction long after its task's end takes the part below zero and no more."""
    part = applied(correction(1, 0, 5, task_id="t", input_tokens=-100), usage(2, task_id="t",
                   input_tokens=50))  # fmt: skip
    part.apply([tick(9, NOW + 2 * HOUR_US)])
    rows = [decode(o.value or b"")[1] for o in part.take() if o.topic == TOPICS.tasks]
    assert (rows[-1]["input_tokens"], rows[-1]["ended"]) == (-50, True)
    assert [key for key in part.state.cohorts.hours() if key.cohort.kind == "task"] == []
