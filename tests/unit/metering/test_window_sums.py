"""What a window row adds up: quality, corrections, histograms, overflow."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import usage
from tests.window_columns import Labelled, add, check, row_of

from sluice.metering import histogram
from sluice.metering.causes import CAUSES
from sluice.metering.columnar.windows import WindowTable
from sluice.metering.labels import Bands, Thresholds
from sluice.metering.rating import Part
from sluice.metering.windows import MAX_LABELS, OTHER

LIMITS = Thresholds(10, 30)


def fix(before: int | None, delta: int, **over: Any) -> dict[str, Any]:
    """A correction."""
    return usage(event_type="correction", corrects_event_id="e", cost_pusd=delta,
                 original_cost_pusd=before, input_tokens=-1, output_tokens=0, **over)  # fmt: skip


def labelled(event: dict[str, Any], cost: int | None, *parts: Part, **over: Any) -> Labelled:
    """An event whose whole cost is body."""
    return Labelled(event, cost_pusd=cost, parts=parts, **{"thresholds": LIMITS} | over)


def added(*items: Labelled) -> dict[str, Any]:
    """A row of these events, the same whether they are added together or one by one."""
    table, single = WindowTable(0), WindowTable(0)
    add(table, *items)
    for item in items:
        add(single, item)
    assert row_of(table) == row_of(single)
    return row_of(table)


def buckets(*costs: tuple[int, int]) -> list[dict[str, int]]:
    """A histogram of (cost, count)."""
    of = {histogram.bucket_of(cost): [count, cost * count] for cost, count in costs}
    return histogram.to_wire(of)


def test_quality_is_counted_by_what_was_stated() -> None:
    """Outcomes, SLO outcomes, rollbacks and flags each count on their own."""
    row = added(
        labelled(usage(slo_outcome="slow", risk_flags=["burst", "loop"]), 5),
        labelled(usage(outcome="error", rollback_reason="unsafe", risk_flags=["burst"]), 5),
        labelled(usage(outcome="degraded"), 5),
    )
    assert row["outcomes"] == [{"key": k, "value": 1} for k in ("degraded", "error", "ok")]
    assert row["slo_outcomes"] == [{"key": "slow", "value": 1}]
    assert row["rollback_reasons"] == [{"key": "unsafe", "value": 1}]
    assert row["risk_flags"] == [{"key": "burst", "value": 2}, {"key": "loop", "value": 1}]
    assert (row["good"], row["events"], row["requests"]) == (1, 3, 3)


@pytest.mark.parametrize(
    ("over", "good"),
    [({}, 1), ({"outcome": "degraded"}, 1), ({"outcome": "error"}, 0),
     ({"slo_outcome": "slow"}, 0), ({"slo_outcome": "good", "outcome": "error"}, 1)],
)  # fmt: skip
def test_the_slo_decides_what_is_good_before_the_outcome(over: dict[str, Any], good: int) -> None:
    """A slow answer is not good although it was given."""
    assert added(labelled(usage(**over), 5))["good"] == good


def test_what_was_not_measured_stays_null() -> None:
    """Null is not 0: one event with a value makes a sum of what is known."""
    row = added(labelled(usage(), 1), labelled(usage(gpu_us=0), 1))
    assert (row["gpu_us"], row["energy_mj"]) == (0, None)


def test_classes_add_up_quantity_and_cost() -> None:
    """Two events' input is one class; classes come in alphabetical order."""
    row = added(labelled(usage(), 7, Part("output", 1, 4), Part("input", 2, 3)),
                labelled(usage(), 5, Part("input", 3, 5)))  # fmt: skip
    assert row["usage_by_class"] == [
        {"key": "input", "quantity": 5, "cost_pusd": 8},
        {"key": "output", "quantity": 1, "cost_pusd": 4},
    ]


def test_bands_and_causes_add_up() -> None:
    """In the order of the causes; one that has nothing is left out."""
    first, second = [0] * len(CAUSES), [0] * len(CAUSES)
    first[CAUSES.index("retry")], second[CAUSES.index("loop")] = 7, 9
    row = added(
        labelled(usage(), 7, bands=Bands(1, 2, 4), causes=tuple(first), tails=(0, 4, *first[2:])),
        labelled(usage(), 7, bands=Bands(7, 0, 0), causes=tuple(first)),
        labelled(usage(), 9, bands=Bands(8, 1, 0), causes=tuple(second)),
    )
    assert (row["body_pusd"], row["shoulder_pusd"], row["tail_pusd"]) == (16, 3, 4)
    assert row["overhead_by_cause"] == [{"key": "retry", "value": 14}, {"key": "loop", "value": 9}]
    assert row["tail_by_cause"] == [{"key": "retry", "value": 4}]


def test_packaged_and_unknown_baselines_are_counted() -> None:
    """How much of a row is measured can be told; an unpriced event is neither."""
    row = added(labelled(usage(), 1, thresholds=Thresholds(1, 2, packaged=True)),
                labelled(usage(), 1, thresholds=None), labelled(usage(), None, thresholds=None),
                labelled(usage(), 1))  # fmt: skip
    assert (row["packaged"], row["unlabelled"], row["unpriced"]) == (1, 1, 1)


def test_a_row_names_the_versions_of_its_newest_usage() -> None:
    """Those in force when it came; a correction, which has its original's, changes nothing."""
    table = WindowTable(0)
    add(table, labelled(usage(), 1), book="b1", baseline=None)
    assert (row_of(table)["price_book_version"], row_of(table)["baseline_version"]) == ("b1", None)
    add(table, labelled(usage(), 1), book="b2", baseline="n2")
    add(table, labelled(fix(5, 1), 1), book="b3", baseline="n3")
    assert (row_of(table)["price_book_version"], row_of(table)["baseline_version"]) == ("b2", "n2")


def test_a_correction_moves_its_original_to_another_bucket() -> None:
    """From 100 to 40: the old bucket is empty again, the row has one event that costs 40."""
    row = added(labelled(usage(), 100), labelled(fix(100, -60), -60))
    assert row["cost_histogram"] == buckets((40, 1))
    assert (row["events"], row["corrections"]) == (1, 1)
    assert (row["corrected_pusd"], row["cost_pusd"]) == (-60, 40)


def test_a_late_price_makes_an_event_priced() -> None:
    """The original had no price: it enters the histogram now."""
    row = added(labelled(usage(), None), labelled(fix(None, 40), 40))
    assert (row["unpriced"], row["cost_histogram"]) == (0, buckets((40, 1)))


def test_a_correction_of_tokens_alone_leaves_the_histograms() -> None:
    """No cost, no latency: nothing moves, nothing empty stays behind."""
    row = added(labelled(fix(5, 0, latency_us=-3), 0))
    assert (row["cost_histogram"], row["latency_histogram"]) == ([], [])
    assert (row["input_tokens"], row["latency_us"]) == (-1, -3)


def test_a_correction_in_a_lane_may_stand_alone() -> None:
    """Without its original in the row the old bucket is negative, so that lanes add up."""
    row = added(labelled(fix(100, -60), -60))
    assert row["cost_histogram"] == [
        {"bucket": histogram.bucket_of(40), "count": 1, "cost_pusd": 40},
        {"bucket": histogram.bucket_of(100), "count": -1, "cost_pusd": -100},
    ]


def test_latency_is_counted_with_what_its_events_cost() -> None:
    """An event without a price costs the histogram nothing."""
    row = added(labelled(usage(latency_us=9), 70), labelled(usage(latency_us=9), None))
    assert row["latency_histogram"] == [
        {"bucket": histogram.bucket_of(9), "count": 2, "cost_pusd": 70}
    ]


@pytest.mark.parametrize(
    ("cost", "parts"),
    [(2**62, ()), (0, (Part("input", 2**62, 0),)), (0, (Part("input", 1, 2**62),))],
)
def test_an_overflow_leaves_the_row_as_it_was(cost: int, parts: tuple[Part, ...]) -> None:
    """One cost or class too many is refused, and neither tokens nor money nor counts moved."""
    table = WindowTable(0)
    add(table, labelled(usage(input_tokens=3), cost, *parts))
    before = row_of(table)
    more = labelled(usage(input_tokens=4, gpu_us=1), cost, *parts)
    with pytest.raises(OverflowError):
        check(table, more)
    assert row_of(table) == before
    check(table, labelled(usage(input_tokens=4), 5))


def test_corrections_back_and_forth_cannot_hide_an_overflow() -> None:
    """The bound grows with every amount that went in, whatever its sign."""
    table = WindowTable(0)
    add(table, labelled(usage(), 2**60), labelled(fix(2**60, -(2**60)), -(2**60)))
    assert row_of(table)["cost_pusd"] == 0
    with pytest.raises(OverflowError):
        check(table, labelled(usage(), 2**62))


def test_a_row_keeps_a_bounded_number_of_labels() -> None:
    """Whatever texts producers send, a row stays small: the 65th flag and later count as other."""
    row = added(*(
        labelled(usage(number, risk_flags=[f"flag-{number}"]), 5)
        for number in range(1, MAX_LABELS + 8)
    ))  # fmt: skip
    counts = {flag["key"]: flag["value"] for flag in row["risk_flags"]}
    assert len(counts) == MAX_LABELS + 1
    assert counts[OTHER] == 7
    assert sum(counts.values()) == row["events"]


def test_each_kind_of_label_has_a_bound_of_its_own() -> None:
    """A row full of flags still tells how its events ended."""
    flags = [f"flag-{number}" for number in range(MAX_LABELS)]
    row = added(labelled(usage(risk_flags=flags, slo_outcome="flag-3"), 5))
    assert row["outcomes"] == [{"key": "ok", "value": 1}]
    assert row["slo_outcomes"] == [{"key": "flag-3", "value": 1}]
    assert OTHER not in {flag["key"] for flag in row["risk_flags"]}
