"""What a window row adds up: quality, corrections, histograms, overflow."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import arrived

from sluice.metering import histogram
from sluice.metering.causes import NOTHING
from sluice.metering.labels import Bands, Label, Thresholds
from sluice.metering.rating import Part
from sluice.metering.row_sums import (
    MAX_LABELS,
    OTHER,
    WindowSums,
    add_usage,
    fields_of,
    is_good,
)

LIMITS = Thresholds(10, 30)


def label(cost: int | None, *parts: Part, limits: Thresholds | None = LIMITS) -> Label:
    """A label whose whole cost is body."""
    amount = cost or 0
    shares = (amount, *NOTHING[1:])
    return Label(cost, parts, Bands(amount, 0, 0), shares, NOTHING, limits, "book", "base")


def fix(before: int | None, delta: int, **over: Any) -> dict[str, Any]:
    """A correction."""
    return arrived(event_type="correction", corrects_event_id="e", cost_pusd=delta,
                   original_cost_pusd=before, input_tokens=-1, output_tokens=0, **over)  # fmt: skip


def added(*items: tuple[dict[str, Any], Label]) -> WindowSums:
    """A row of these events."""
    row = WindowSums()
    for event, found in items:
        add_usage(row, event, found, clamped=False)
    return row


def test_quality_is_counted_by_what_was_stated() -> None:
    """Outcomes, SLO outcomes, rollbacks and flags each count on their own."""
    row = added(
        (arrived(slo_outcome="slow", risk_flags=["burst", "loop"]), label(5)),
        (arrived(outcome="error", rollback_reason="unsafe", risk_flags=["burst"]), label(5)),
        (arrived(outcome="degraded"), label(5)),
    )
    fields = fields_of(row)
    assert fields["slo_outcomes"] == [{"key": "slow", "value": 1}]
    assert fields["rollback_reasons"] == [{"key": "unsafe", "value": 1}]
    assert fields["risk_flags"] == [{"key": "burst", "value": 2}, {"key": "loop", "value": 1}]
    assert (fields["good"], fields["events"], fields["requests"]) == (1, 3, 3)


@pytest.mark.parametrize(
    ("over", "good"),
    [({}, True), ({"outcome": "degraded"}, True), ({"outcome": "error"}, False),
     ({"slo_outcome": "slow"}, False), ({"slo_outcome": "good", "outcome": "error"}, True)],
)  # fmt: skip
def test_the_slo_decides_what_is_good_before_the_outcome(
    over: dict[str, Any], *, good: bool
) -> None:
    """A slow answer is not good although it was given."""
    assert is_good(arrived(**over)) is good


def test_what_was_not_measured_stays_null() -> None:
    """Null is not 0: one event with a value makes a sum of what is known."""
    fields = fields_of(added((arrived(), label(1)), (arrived(gpu_us=0), label(1))))
    assert (fields["gpu_us"], fields["energy_mj"]) == (0, None)


def test_classes_add_up_quantity_and_cost() -> None:
    """Two events' input is one class; classes come in alphabetical order."""
    row = added((arrived(), label(7, Part("output", 1, 4), Part("input", 2, 3))),
                (arrived(), label(5, Part("input", 3, 5))))  # fmt: skip
    assert fields_of(row)["usage_by_class"] == [
        {"key": "input", "quantity": 5, "cost_pusd": 8},
        {"key": "output", "quantity": 1, "cost_pusd": 4},
    ]


def test_packaged_and_unknown_baselines_are_counted() -> None:
    """How much of a row is measured can be told; an unpriced event is neither."""
    row = added((arrived(), label(1, limits=Thresholds(1, 2, packaged=True))),
                (arrived(), label(1, limits=None)), (arrived(), label(None, limits=None)),
                (arrived(), label(1)))  # fmt: skip
    assert (row.packaged, row.unlabelled, row.unpriced) == (1, 1, 1)


def test_a_correction_moves_its_original_to_another_bucket() -> None:
    """From 100 to 40: the old bucket is empty again, the row has one event that costs 40."""
    row = added((arrived(), label(100)), (fix(100, -60), label(-60)))
    assert row.cost == {histogram.bucket_of(40): [1, 40]}
    assert (row.events, row.corrections, row.corrected_pusd, row.cost_pusd) == (1, 1, -60, 40)


def test_a_late_price_makes_an_event_priced() -> None:
    """The original had no price: it enters the histogram now."""
    row = added((arrived(), label(None)), (fix(None, 40), label(40)))
    assert (row.unpriced, row.cost) == (0, {histogram.bucket_of(40): [1, 40]})


def test_a_correction_of_tokens_alone_leaves_the_histograms() -> None:
    """No cost, no latency: nothing moves, nothing empty stays behind."""
    row = added((fix(5, 0, latency_us=-3), label(0)))
    assert (row.cost, row.latency, row.tokens[0], row.measured[-1]) == ({}, {}, -1, -3)


def test_a_correction_in_a_lane_may_stand_alone() -> None:
    """Without its original in the row the old bucket is negative, so that lanes add up."""
    row = added((fix(100, -60), label(-60)))
    assert row.cost == {histogram.bucket_of(100): [-1, -100], histogram.bucket_of(40): [1, 40]}


def test_an_overflow_leaves_the_row_as_it_was() -> None:
    """One class too many, and neither tokens nor money nor counts have moved."""
    row = added((arrived(input_tokens=3), label(2**62)))
    before = repr(row)
    with pytest.raises(OverflowError):
        add_usage(row, arrived(input_tokens=4, gpu_us=1), label(2**62), clamped=True)
    assert repr(row) == before


def test_corrections_back_and_forth_cannot_hide_an_overflow() -> None:
    """The bound grows with every amount that went in, whatever its sign."""
    row = added((arrived(), label(2**60)), (fix(2**60, -(2**60)), label(-(2**60))))
    assert row.cost_pusd == 0
    with pytest.raises(OverflowError):
        add_usage(row, arrived(), label(2**62), clamped=False)


def test_a_row_keeps_a_bounded_number_of_labels() -> None:
    """Whatever texts producers send, a row stays small: the 65th flag and later count as other."""
    row = WindowSums()
    for number in range(MAX_LABELS + 7):
        event = arrived(risk_flags=[f"flag-{number}"])
        add_usage(row, event, label(5), clamped=False)
    assert len(row.risk_flags) == MAX_LABELS + 1
    assert row.risk_flags[OTHER] == 7
    assert sum(row.risk_flags.values()) == row.events
