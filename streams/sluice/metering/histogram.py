"""Logarithmic histograms with an error of 1 %: count and cost per bucket, exactly mergeable.

The mapping is DDSketch's (Masson, Rim, Lee, VLDB 2019) with gamma = (1 + a) / (1 - a), a = 1 %: a
value x > 0 lies in the bucket i = ceil(log_gamma x), which covers (gamma^(i-1), gamma^i]. Borders
are whole numbers computed with fractions, so every machine puts a value into the same bucket.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from sluice.money import INT64_MAX

GAMMA = Fraction(101, 99)
# Of values that are 0; smaller than every other bucket.
ZERO_BUCKET = -1

# bucket -> [events, their cost in pico-USD]
Buckets = dict[int, list[int]]


def _borders() -> tuple[int, ...]:
    """Largest whole number in each bucket, until 64 bits are covered."""
    borders = [1]
    numerator, denominator = 1, 1
    while borders[-1] < INT64_MAX:
        numerator, denominator = numerator * GAMMA.numerator, denominator * GAMMA.denominator
        borders.append(min(numerator // denominator, INT64_MAX))
    return tuple(borders)


BORDERS = _borders()


def bucket_of(value: int) -> int:
    """The bucket of a whole number ≥ 0; ValueError for a negative one."""
    if value < 0:
        raise ValueError(f"{value} is negative")
    return bisect_left(BORDERS, value) if value else ZERO_BUCKET


def upper_bound(bucket: int) -> int:
    """The largest whole number that lies in a bucket."""
    return 0 if bucket == ZERO_BUCKET else BORDERS[bucket]


def estimate(bucket: int) -> float:
    """A value within 1 % of everything in a bucket: 2 gamma^i / (gamma + 1)."""
    if bucket == ZERO_BUCKET:
        return 0.0
    return float(2 * GAMMA**bucket / (GAMMA + 1))


def has_room(buckets: Mapping[int, list[int]], value: int, cost_pusd: int) -> bool:
    """Whether the cost of a value's bucket stays within 64 bits."""
    found = buckets.get(bucket_of(value))
    return found is None or abs(found[1] + cost_pusd) <= INT64_MAX


def add(buckets: Buckets, value: int, cost_pusd: int, count: int = 1) -> None:
    """Count a value; `count` -1 takes one out again. Empty buckets disappear."""
    index = bucket_of(value)
    found = buckets.setdefault(index, [0, 0])
    found[0] += count
    found[1] += cost_pusd
    if found == [0, 0]:
        del buckets[index]


def merge(into: Buckets, other: Mapping[int, list[int]]) -> None:
    """Add another histogram."""
    for index, (count, cost_pusd) in other.items():
        found = into.setdefault(index, [0, 0])
        found[0] += count
        found[1] += cost_pusd
        if found == [0, 0]:
            del into[index]


def total(buckets: Mapping[int, list[int]]) -> int:
    """How many values are counted."""
    return sum(count for count, _ in buckets.values())


def quantile_bucket(buckets: Mapping[int, list[int]], q: Fraction) -> int | None:
    """The bucket of the value of rank ceil(q * n), 0 < q ≤ 1; None for an empty histogram."""
    events = total(buckets)
    rank, seen = -(-q.numerator * events // q.denominator), 0
    for index in sorted(buckets):
        seen += buckets[index][0]
        if seen >= rank and events > 0:
            return index
    return None


def to_wire(buckets: Mapping[int, list[int]]) -> list[dict[str, int]]:
    """The histogram as records go on the wire, buckets in ascending order."""
    return [
        {"bucket": index, "count": buckets[index][0], "cost_pusd": buckets[index][1]}
        for index in sorted(buckets)
    ]


def from_wire(records: Iterable[Mapping[str, Any]]) -> Buckets:
    """A histogram as it came over the wire."""
    return {record["bucket"]: [record["count"], record["cost_pusd"]] for record in records}
