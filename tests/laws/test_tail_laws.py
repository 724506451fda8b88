"""Laws of histograms, causes and baselines, each against exact arithmetic written anew."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.builders import usage
from tests.laws import oracle

from sluice.metering import causes, histogram
from sluice.metering.baselines import Baseline, Norm, compute, load_baseline, threshold
from sluice.metering.causes import CAUSES, NOTHING, Context
from sluice.metering.cohorts import Cohort, CohortHour, CohortSums, merged, row_record
from sluice.metering.histogram import BORDERS, Buckets
from sluice.metering.labels import Bands, Label, Thresholds, bands_of
from sluice.metering.rating import Part
from sluice.metering.tasks import Tasks
from sluice.money import INT64_MAX

LAWS = settings(max_examples=100, deadline=None)
amounts = st.one_of(st.integers(0, 300), st.integers(0, 10**12), st.integers(0, INT64_MAX))
lists = st.lists(amounts, min_size=1, max_size=60)


def counted(values: list[int]) -> Buckets:
    """A histogram of costs."""
    buckets: Buckets = {}
    for value in values:
        histogram.add(buckets, value, value)
    return buckets


# ---- histograms


@LAWS
@given(amounts)
def test_a_bucket_is_the_smallest_power_that_covers_the_value(value: int) -> None:
    """The bucket is that of exact powers, its border covers the value, its estimate is in 1 %."""
    bucket = histogram.bucket_of(value)
    assert bucket == oracle.bucket(value)
    assert value <= histogram.upper_bound(bucket) <= INT64_MAX
    assert bucket <= 0 or histogram.upper_bound(bucket - 1) < value
    assert abs(histogram.estimate(bucket) - value) <= 0.01 * value * (1 + 1e-9)


@LAWS
@given(lists, st.fractions(0, 1, max_denominator=1000))
def test_a_quantile_is_within_one_percent_of_the_order_statistic(
    values: list[int], q: Fraction
) -> None:
    """The estimate of any quantile differs from the exact order statistic by at most 1 %."""
    assume(q > 0)
    exact = sorted(values)[-(-q.numerator * len(values) // q.denominator) - 1]
    bucket = histogram.quantile_bucket(counted(values), q)
    assert bucket is not None
    assert abs(histogram.estimate(bucket) - exact) <= 0.01 * exact * (1 + 1e-9)


@LAWS
@given(st.lists(st.tuples(amounts, st.integers(0, 3)), max_size=60), st.permutations(range(4)))
def test_merged_parts_are_the_whole_in_any_order(
    values: list[tuple[int, int]], order: list[int]
) -> None:
    """A stream split four ways and merged in any order gives the histogram of the whole."""
    parts = [counted([v for v, place in values if place == k]) for k in range(4)]
    together: Buckets = {}
    for k in order:
        histogram.merge(together, histogram.from_wire(histogram.to_wire(parts[k])))
    assert together == counted([v for v, _ in values])
    assert histogram.total(together) == len(values)


@LAWS
@given(lists, lists)
def test_what_is_taken_out_again_leaves_nothing_behind(kept: list[int], gone: list[int]) -> None:
    """Adding values and taking them out restores the histogram, empty buckets included."""
    buckets = counted(kept)
    for value in gone:
        histogram.add(buckets, value, value)
        histogram.add(buckets, value, 0, count=0)
    for value in reversed(gone):
        histogram.add(buckets, value, -value, count=-1)
    assert buckets == counted(kept)


# ---- causes

shares = st.lists(amounts, min_size=8, max_size=8).map(tuple)


@LAWS
@given(shares, st.fractions(0, 1))
def test_an_allocation_adds_up_and_exceeds_no_share(split: tuple[int, ...], q: Fraction) -> None:
    """Tails by cause sum to the tail, lie within their share, and are the largest remainders."""
    tail = int(q * sum(split))
    given_out = causes.allocate(tail, split)
    assert sum(given_out) == tail
    assert all(0 <= part <= share for part, share in zip(given_out, split, strict=True))
    assert list(given_out) == oracle.shared(tail, list(split))


_counts = st.integers(0, 10_000)
_parts = st.lists(
    st.builds(
        Part,
        st.sampled_from(["input", "input_audio", "cache_read", "cache_write", "cache_write_3600",
                         "output", "reasoning", "gpu_us", "kv_byte_ms", "request"]),
        _counts, st.integers(0, 10**10),
    ),
    max_size=6, unique_by=lambda part: part.key,
)  # fmt: skip


@LAWS
@given(
    parts=_parts, cached=_counts, usual=st.one_of(st.none(), _counts), looping=st.booleans(),
    tokens=st.tuples(_counts, _counts, _counts), queue=st.one_of(st.none(), _counts),
    latency=st.one_of(st.none(), _counts), attempt=st.sampled_from([1, 1, 2]),
)  # fmt: skip
def test_a_split_adds_up_whatever_the_parts(
    parts: list[Part], cached: int, usual: int | None, looping: bool,
    tokens: tuple[int, int, int], queue: int | None, latency: int | None, attempt: int,
) -> None:  # fmt: skip
    """Causes are never negative and sum to the cost, and equal exact fractions rounded down."""
    fresh, read, again = tokens
    event = usage(
        input_tokens=fresh + read, cache_read_input_tokens=read, attempt=attempt,
        recomputed_input_tokens=min(again, fresh + read), queue_us=queue, latency_us=latency,
        attempt_kind=None, slo_outcome=None,
    )  # fmt: skip
    cost = sum(part.cost_pusd for part in parts)
    split = causes.split(event, cost, parts, Context(looping, cached, usual))
    assert sum(split) == cost
    assert min(split) >= 0
    named = dict(zip(CAUSES, split, strict=True))
    if attempt > 1 or looping:
        assert named["retry" if attempt > 1 else "loop"] == cost
        return
    new = sum(p.cost_pusd for p in parts if p.key.startswith(("input", "cache_write")))
    redone = min(fresh, max(min(again, fresh + read), cached - read))
    assert named["recompute"] == (int(Fraction(new * redone, fresh)) if redone > 0 else 0)
    timed = sum(p.cost_pusd for p in parts if p.key in ("gpu_us", "kv_byte_ms"))
    waited = min(Fraction(queue or 0, latency), Fraction(1)) if latency else Fraction(0)
    assert named["queue_hold"] == int(timed * waited)


# ---- tasks


@LAWS
@given(
    costs=st.lists(st.integers(0, 10**9), min_size=1, max_size=12),
    baseline=st.integers(0, 4 * 10**9),
    order=st.randoms(use_true_random=False),
)
def test_task_marginals_telescope_in_any_order(costs: list[int], baseline: int, order: Any) -> None:
    """Each share lies between 0 and the event's cost; they sum to what exceeds the baseline."""
    norms = {("task", "", None, "a"): Norm(0, baseline, 30)}
    known = Baseline(1, norms, {})
    for sent in (costs, order.sample(costs, len(costs))):
        tasks, found = Tasks(), []
        for number, cost in enumerate(sent):
            event = usage(number + 1, task_id="t", agent_name="a", attempt_kind=None,
                          tool_args_hash=None, tool_name=None, slo_outcome=None,
                          workflow_name=None, parent_event_id=None, response_model=None,
                          original_cost_pusd=None)  # fmt: skip
            shares_of = (cost, *NOTHING[1:])
            label = Label(cost, (), Bands(cost, 0, 0), shares_of, NOTHING, None, None, None)
            tail = tasks.add(event, label, Context(), number, known)
            assert tail is not None
            assert 0 <= tail <= cost
            found.append(tail)
        assert sum(found) == max(0, sum(costs) - baseline)


# ---- baselines

_costs = st.lists(st.one_of(st.just(0), st.integers(1, 10**10)), min_size=4, max_size=30)
_norms = st.tuples(st.integers(-1, 1100), st.integers(-1, 1100))


def _row(cohort: Cohort, hour: int, costs: list[int], times: int) -> dict[str, Any]:
    sums = CohortSums()
    for cost in costs:
        for buckets, value, money in ((sums.cost, cost, cost), (sums.input, cost % 9000, 0)):
            histogram.add(buckets, value, money * times, count=times)
    sums.events = len(costs) * times
    return row_record(CohortHour(cohort, hour), sums, 0, 0, 1)


def _border(index: int) -> int:
    return 0 if index < 0 else BORDERS[index]


@LAWS
@given(costs=_costs, other=_costs, earlier=st.one_of(st.none(), _norms))
def test_a_refresh_is_bounded_and_its_tails_follow_from_the_histogram(
    costs: list[int], other: list[int], earlier: tuple[int, int] | None
) -> None:
    """Thresholds lie on borders, move by 20 % at most, and give the tail that SQL computes."""
    cohort = Cohort("event", "chat", "m", "1k", "")
    rows = [_row(cohort, 0, costs, 60), _row(cohort, 1, other, 60)]
    slot, before = ("chat", "m", "1k", ""), None
    if earlier is not None:
        low, high = sorted(map(_border, earlier))
        before = Baseline(1, {slot: Norm(low, high, 200)}, {})
    norm = compute(rows, before, 2).norms[slot]
    assert 0 <= norm.q50_pusd <= norm.q95_pusd
    for value in (norm.q50_pusd, norm.q95_pusd):
        assert value == 0 or BORDERS[bisect_left(BORDERS, value)] == value
    if before is not None:
        old = before.norms[slot]
        for was, now in ((old.q50_pusd, norm.q50_pusd), (old.q95_pusd, norm.q95_pusd)):
            # From nothing there is no percentage; the smallest borders are more than 20 % apart.
            assert not was or 4 * was <= 5 * now <= 6 * was
    events = [cost for cost in (*costs, *other) for _ in range(60)]
    tails = sum(bands_of(c, Thresholds(*norm[:2])).tail_pusd for c in events)
    assert tails == _tail_in_sql(merged(rows)[cohort].cost, norm.q95_pusd)


def _tail_in_sql(buckets: Mapping[int, list[int]], q95: int) -> int:
    """Cost above a border, from counts and sums of the buckets above it."""
    return sum(
        cost - count * q95
        for index, (count, cost) in buckets.items()
        if histogram.upper_bound(index) > q95
    )


@LAWS
@given(costs=_costs, order=st.permutations(range(6)))
def test_a_baseline_depends_on_its_rows_not_on_their_order(
    costs: list[int], order: list[int]
) -> None:
    """Rows in any order give the same version, which survives being written and read."""
    rows = [
        _row(Cohort("event", "chat", f"m{k % 2}", "1k", ""), k, costs[k % 4 :], 40)
        for k in range(6)
    ]
    whole = compute(rows, None, 9)
    mixed = compute([rows[k] for k in order], None, 9)
    assert mixed.to_json() == whole.to_json()
    assert load_baseline(whole.to_json()) == whole


@LAWS
@given(lists)
def test_without_a_baseline_before_the_threshold_covers_the_quantile(values: list[int]) -> None:
    """At least 95 % of the events cost no more than the threshold, at most 1 % above the exact."""
    limit = threshold(counted(values), Fraction(19, 20))
    exact = sorted(values)[-(-19 * len(values) // 20) - 1]
    assert sum(v <= limit for v in values) * 20 >= 19 * len(values)
    assert exact <= limit <= exact * 101 // 99 + 1


def test_an_empty_histogram_has_no_quantile() -> None:
    """Nothing counted: no bucket and no threshold."""
    assert histogram.quantile_bucket({}, Fraction(1, 2)) is None
    with pytest.raises(ValueError, match="empty histogram"):
        threshold({}, Fraction(1, 2))
