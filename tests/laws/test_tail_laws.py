"""Laws of histograms, causes and baselines, each against exact arithmetic written anew."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.builders import NOW, usage
from tests.cohort_records import cohort_record
from tests.laws import oracle
from tests.laws.one_by_one_tasks import Context
from tests.split_columns import Costing, splits_of
from tests.task_columns import Added, run_of

from sluice.metering import histogram
from sluice.metering.baselines import Baseline, Norm, compute, load_baseline, threshold
from sluice.metering.causes import CAUSES
from sluice.metering.cohorts import Cohort, CohortHour, CohortSums, merged
from sluice.metering.columnar.buckets import bucket_of
from sluice.metering.columnar.causes import part_of
from sluice.metering.columnar.tasks import TaskTable
from sluice.metering.histogram import BORDERS, Buckets
from sluice.metering.labels import Thresholds, bands_of
from sluice.metering.parts import Part
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
    assert bucket == bucket_of(value) == oracle.bucket(value)
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


_costings = st.fixed_dictionaries(
    {
        "parts": _parts,
        "fresh": _counts, "read": _counts, "again": _counts,
        "queue": st.none() | _counts, "latency": st.none() | _counts,
        "attempt": st.sampled_from([1, 1, 2]),
        "context": st.builds(Context, st.booleans(), _counts, st.none() | _counts),
        "tail": st.fractions(0, 1),
    }
)  # fmt: skip


def _costing(drawn: dict[str, Any]) -> Costing:
    tokens = drawn["fresh"] + drawn["read"]
    event = usage(
        input_tokens=tokens, cache_read_input_tokens=drawn["read"], attempt=drawn["attempt"],
        recomputed_input_tokens=min(drawn["again"], tokens), queue_us=drawn["queue"],
        latency_us=drawn["latency"],
    )  # fmt: skip
    cost = sum(part.cost_pusd for part in drawn["parts"])
    return Costing(event, drawn["parts"], int(drawn["tail"] * cost), drawn["context"])


@LAWS
@given(st.lists(_costings, min_size=1, max_size=5))
def test_splits_add_up_whatever_the_parts(drawn: list[dict[str, Any]]) -> None:
    """Causes are never negative and sum to the cost, and equal exact fractions rounded down.

    Tails by cause sum to the tail, lie within their share, and are the largest remainders.
    """
    costings = [_costing(one) for one in drawn]
    for one, (split, tails) in zip(costings, splits_of(costings), strict=True):
        assert sum(split) == one.cost()
        assert min(split) >= 0
        assert dict(zip(CAUSES, split, strict=True)) == _exact(one)
        assert sum(tails) == one.tail_pusd
        assert all(0 <= part <= share for part, share in zip(tails, split, strict=True))
        assert list(tails) == oracle.shared(one.tail_pusd, list(split))


def _exact(one: Costing) -> dict[str, int]:
    """The causes of an event by fractions."""
    event, context, found = one.event, one.context, dict.fromkeys(CAUSES, 0)
    if event["attempt"] > 1 or context.looping:
        found["retry" if event["attempt"] > 1 else "loop"] = one.cost()
        return found
    tokens, read = event["input_tokens"], event["cache_read_input_tokens"]
    fresh = tokens - read
    new = _costing_of(one, "input", "cache_write")
    redone = min(fresh, max(event["recomputed_input_tokens"], context.cached_tokens - read))
    found["recompute"] = int(Fraction(new * redone, fresh)) if redone > 0 else 0
    beyond = (
        min(tokens - context.usual_input, tokens - max(redone, 0)) if context.usual_input else 0
    )
    if beyond > 0:
        rest = new + _costing_of(one, "cache_read") - found["recompute"]
        found["context_growth"] = int(Fraction(rest * beyond, tokens - max(redone, 0)))
    queue, latency = event["queue_us"], event["latency_us"]
    waited = min(Fraction(queue or 0, latency), Fraction(1)) if latency else Fraction(0)
    found["queue_hold"] = int(_costing_of(one, "gpu_us", "kv_byte_ms") * waited)
    found["first_pass"] = one.cost() - sum(found.values())
    return found


def _costing_of(one: Costing, *classes: str) -> int:
    return sum(part.cost_pusd for part in one.parts if part.key.startswith(classes))


@LAWS
@given(amounts, amounts, amounts)
def test_a_part_is_exact_in_64_bits(amount: int, one: int, other: int) -> None:
    """Although the product on the way may take twice as many."""
    share, whole = sorted((one, max(1, other)))
    assert part_of(amount, share, whole) == divmod(amount * share, whole)


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
        added = [
            Added(usage(number, task_id="t", agent_name="a"), NOW + number, cost)
            for number, cost in enumerate(sent, 1)
        ]
        effects = TaskTable().add(run_of(added, known))
        tails = effects.task_tail_pusd.tolist()
        assert effects.task_tail_known.all()
        assert all(0 <= tail <= cost for tail, cost in zip(tails, sent, strict=True))
        assert sum(tails) == max(0, sum(costs) - baseline)


# ---- baselines

_costs = st.lists(st.one_of(st.just(0), st.integers(1, 10**10)), min_size=4, max_size=30)
_norms = st.tuples(st.integers(-1, 1100), st.integers(-1, 1100))


def _row(cohort: Cohort, hour: int, costs: list[int], times: int) -> dict[str, Any]:
    sums = CohortSums()
    for cost in costs:
        for buckets, value, money in ((sums.cost, cost, cost), (sums.input, cost % 9000, 0)):
            histogram.add(buckets, value, money * times, count=times)
    sums.events = len(costs) * times
    return cohort_record(CohortHour(cohort, hour), sums)


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
