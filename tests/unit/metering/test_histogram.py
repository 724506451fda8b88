"""Histograms: buckets of 1 %, what comes out again, how they travel."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sluice.metering import histogram
from sluice.metering.histogram import BORDERS, ZERO_BUCKET, Buckets
from sluice.money import INT64_MAX


def test_small_whole_numbers_have_buckets_of_their_own() -> None:
    """1 is bucket 0; 2 lies in bucket 35, the first whose upper bound (101/99)^35 reaches it."""
    assert [histogram.bucket_of(value) for value in (0, 1, 2)] == [ZERO_BUCKET, 0, 35]
    assert (Fraction(101, 99) ** 34 < 2) and (Fraction(101, 99) ** 35 >= 2)
    assert [histogram.upper_bound(bucket) for bucket in (ZERO_BUCKET, 0, 35)] == [0, 1, 2]


def test_every_amount_of_money_has_a_bucket() -> None:
    """The last border is the largest amount, so a threshold is never beyond 64 bits."""
    assert BORDERS[-1] == INT64_MAX
    assert histogram.bucket_of(INT64_MAX) == len(BORDERS) - 1


def test_a_negative_value_has_no_bucket() -> None:
    """A histogram refuses what it cannot hold."""
    with pytest.raises(ValueError, match="-1 is negative"):
        histogram.bucket_of(-1)


def test_the_middle_of_a_bucket_stands_for_it() -> None:
    """2 gamma^i / (gamma + 1): 0.99 for the bucket of 1, 0 for nothing."""
    assert histogram.estimate(0) == pytest.approx(0.99)
    assert histogram.estimate(ZERO_BUCKET) == 0.0


def test_ranks_are_counted_from_the_smallest_value() -> None:
    """Of 0, 0, 1, 2 the median is 0, the upper quartile 1 and everything above it 2."""
    buckets: Buckets = {}
    for value in (2, 0, 1, 0):
        histogram.add(buckets, value, value)
    found = [histogram.quantile_bucket(buckets, Fraction(q, 4)) for q in (2, 3, 4)]
    assert found == [ZERO_BUCKET, 0, 35]
    assert histogram.total(buckets) == 4


def test_taking_a_value_out_leaves_no_empty_bucket() -> None:
    """What cancels out is gone, also where nothing was counted at all."""
    buckets: Buckets = {}
    histogram.add(buckets, 5, 0, count=0)
    histogram.add(buckets, 7, 7)
    histogram.add(buckets, 7, -7, count=-1)
    assert buckets == {}


def test_merging_can_cancel_out() -> None:
    """A late correction's bucket and the original's vanish together."""
    into: Buckets = {3: [1, 9]}
    histogram.merge(into, {3: [-1, -9], 4: [1, 11]})
    assert into == {4: [1, 11]}


def test_the_wire_form_is_sorted_and_complete() -> None:
    """Buckets travel in ascending order and come back equal."""
    buckets: Buckets = {9: [2, 7], ZERO_BUCKET: [1, 0]}
    wire = histogram.to_wire(buckets)
    assert wire == [
        {"bucket": -1, "count": 1, "cost_pusd": 0},
        {"bucket": 9, "count": 2, "cost_pusd": 7},
    ]
    assert histogram.from_wire(wire) == buckets


def test_room_ends_where_64_bits_end() -> None:
    """A bucket takes costs until its sum would leave 64 bits; another bucket still has room."""
    buckets: Buckets = {}
    histogram.add(buckets, INT64_MAX - 1, INT64_MAX - 1)
    assert histogram.has_room(buckets, INT64_MAX, 1)
    assert not histogram.has_room(buckets, INT64_MAX, 2)
    assert histogram.has_room(buckets, 1, INT64_MAX)
