"""Baselines: who gets a norm, whose norm stands in, how far a refresh moves it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cohort_records import cohort_record

from sluice.errors import ConfigError
from sluice.metering import histogram
from sluice.metering.baselines import MIN_EVENTS, MIN_TASKS, Baseline, Norm, compute, load_baseline
from sluice.metering.cohorts import Cohort, CohortHour, CohortSums, task_cohort
from sluice.metering.histogram import bucket_of, upper_bound

CHAT = Cohort("event", "chat", "m", "1k", "")
SLOT = ("chat", "m", "1k", "")


def row(cohort: Cohort, *costs: int, times: int = 1, tokens: int = 100) -> dict[str, Any]:
    """A CohortRow in which each cost was seen so many times."""
    sums = CohortSums(events=len(costs) * times)
    for cost in costs:
        histogram.add(sums.cost, cost, cost * times, count=times)
        histogram.add(sums.input, tokens, 0, count=times)
    return cohort_record(CohortHour(cohort, 0), sums)


def border(value: int) -> int:
    """Upper border of a value's bucket."""
    return upper_bound(bucket_of(value))


def test_thresholds_are_borders_of_the_quantiles_buckets() -> None:
    """200 events of 1,000 and 1 of a million: both thresholds cover 1,000."""
    found = compute([row(CHAT, 1000, times=200), row(CHAT, 10**6)], None, 1)
    assert found.norms[SLOT] == Norm(border(1000), border(1000), 201)
    assert border(1000) >= 1000


def test_too_few_events_make_no_norm() -> None:
    """199 events are too few, as are 29 tasks."""
    tasks = task_cohort("a")
    few = [row(CHAT, 5, times=MIN_EVENTS - 1), row(tasks, 5, times=MIN_TASKS - 1)]
    assert compute(few, None, 1).norms == {}
    assert compute([row(tasks, 5, times=MIN_TASKS)], None, 1).norm(tasks) == Norm(5, 5, MIN_TASKS)


def test_a_small_cohort_keeps_its_norm_and_an_unseen_one_loses_it() -> None:
    """Less traffic is no reason to forget; none in seven days is."""
    gone = ("chat", "old", "1k", "")
    before = Baseline(1, {SLOT: Norm(7, 9, 500), gone: Norm(7, 9, 500)}, {})
    norms = compute([row(CHAT, 1000)], before, 2).norms
    assert norms[SLOT] == Norm(7, 9, 500)
    assert gone not in norms


def test_a_wider_cohort_stands_in_for_a_small_one() -> None:
    """Each of two lengths has 150 events: the model's operation has a norm, they have none."""
    longer = CHAT._replace(size_class="4k")
    found = compute([row(CHAT, 10, times=150), row(longer, 1000, times=150)], None, 1)
    assert set(found.norms) == {("chat", "m", None, None)}
    assert found.norm(CHAT) == Norm(border(10), border(1000), 300)
    assert found.norm(CHAT._replace(model="other")) is None


def test_tools_of_one_length_share_a_norm_before_lengths_do() -> None:
    """The second step of the way out leaves the tool open, the third the length too."""
    found = compute([row(CHAT._replace(tool="t"), 10, times=100),
                     row(CHAT._replace(tool="u"), 10, times=100)], None, 1)  # fmt: skip
    assert set(found.norms) == {("chat", "m", "1k", None), ("chat", "m", None, None)}


def test_a_burst_moves_a_threshold_by_a_fifth_at_most() -> None:
    """A thousandfold cost raises the norm of 10,000 to the last border below 12,000."""
    before = compute([row(CHAT, 10_000, times=200)], None, 1)
    held = compute([row(CHAT, 10**7, times=200)], before, 2).norms[SLOT]
    old = before.norms[SLOT].q95_pusd
    assert old < held.q95_pusd <= old * 6 // 5
    assert held.q95_pusd == border(held.q95_pusd)
    assert border(held.q95_pusd + 1) > old * 6 // 5
    lowered = compute([row(CHAT, 1, times=200)], before, 2).norms[SLOT]
    assert old * 4 // 5 <= lowered.q50_pusd < old


def test_a_median_that_was_free_does_not_lift_the_percentile() -> None:
    """From (0, 100) to events of a million: the percentile still moves by a fifth only."""
    old = border(100)
    before = Baseline(1, {SLOT: Norm(0, old, 200)}, {})
    norm = compute([row(CHAT, 10**6, times=200)], before, 2).norms[SLOT]
    assert old < norm.q95_pusd <= old * 6 // 5
    assert norm.q50_pusd <= norm.q95_pusd


def test_an_operation_called_task_is_no_task() -> None:
    """Its events need as many as all others."""
    odd = Cohort("event", "task", "", "1k", "")
    assert compute([row(odd, 5, times=MIN_TASKS)], None, 1).norms == {}


def test_the_usual_length_is_the_median_of_a_model_s_operation() -> None:
    """Whatever the class; tools have none; too few keep what was."""
    rows = [
        row(CHAT, 1, times=150, tokens=500),
        row(CHAT._replace(size_class="4k"), 1, times=149, tokens=3000),
        row(CHAT._replace(operation_name="execute_tool", size_class=""), 1, times=500),
    ]
    found = compute(rows, None, 1)
    assert found.contexts == {("chat", "m"): border(500)}
    assert found.usual_input("chat", "m") == border(500)
    kept = compute([row(CHAT, 1, tokens=9)], found, 2)
    assert kept.usual_input("chat", "m") == border(500)


def test_text_and_version_follow_from_the_content() -> None:
    """Written and read again it is equal; another number is another version."""
    norms = {SLOT: Norm(1, 2, 3), ("task", "", None, "a"): Norm(4, 5, 6)}
    found = Baseline(9, norms, {("chat", "m"): 8})
    assert load_baseline(found.to_json()) == found
    assert Baseline(10, norms, {("chat", "m"): 8}).version != found.version


@pytest.mark.parametrize("text", ["", "[]", '{"baseline_id":"default"}'])
def test_other_text_is_no_baseline(text: str) -> None:
    """What cannot be read is named."""
    with pytest.raises(ConfigError, match="not a baseline"):
        load_baseline(text)
