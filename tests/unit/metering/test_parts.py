"""Parts of a cost: rounding, spreading, merging."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sluice.metering.parts import Part, divided, merged, spread, unclassified


@pytest.mark.parametrize(
    ("numerator", "denominator", "quotient"),
    [(5, 10, 0), (15, 10, 2), (25, 10, 2), (24, 10, 2), (26, 10, 3), (-5, 10, 0), (-15, 10, -2),
     (-26, 10, -3), (0, 7, 0), (7, 1, 7)],
)  # fmt: skip
def test_division_rounds_half_even(numerator: int, denominator: int, quotient: int) -> None:
    """Like Fraction does, and a negated amount gives the negated result."""
    assert divided(numerator, denominator) == quotient
    assert quotient == round(Fraction(numerator, denominator))


def _parts(*costs: int) -> tuple[Part, ...]:
    return tuple(Part(f"c{place}", 1, cost) for place, cost in enumerate(costs))


def _spread(cost_pusd: int, *costs: int) -> list[int] | None:
    parts = spread(_parts(*costs), cost_pusd)
    return None if parts is None else [part.cost_pusd for part in parts]


def test_a_bill_is_spread_by_largest_remainder() -> None:
    """10 over three equal parts: of equal remainders the first part gets the odd one."""
    assert _spread(10, 1, 1, 1) == [4, 3, 3]
    assert _spread(10, 1, 2, 3) == [2, 3, 5]
    assert _spread(-10, 1, 1, 1) == [-4, -3, -3]
    assert _spread(10, 0, 5) == [0, 10]


def test_without_costs_there_is_nothing_to_spread_by() -> None:
    """No parts, or parts that cost nothing."""
    assert _spread(10) is None
    assert _spread(10, 0, 0) is None


def test_parts_of_one_class_are_merged_in_order() -> None:
    """Classes without a rate class are left out, so are parts that say nothing."""
    parts = [Part("output", 1, 5), Part("input", 2, 3), Part("output", 4, 0), Part("other", 1, 1),
             Part("request", 0, 0), Part("unclassified", 0, 9)]  # fmt: skip
    assert merged(parts) == (("input", 2, 3), ("output", 5, 5), ("unclassified", 0, 9))


def test_nothing_unexplained_is_no_part() -> None:
    """A cost of 0 needs no class."""
    assert unclassified(1, 0) == ()
    assert unclassified(1, 7) == (("unclassified", 1, 7),)
