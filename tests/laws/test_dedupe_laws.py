"""Deduplication against an oracle that remembers every number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sluice.metering.dedupe import MAX_MISSING_RANGES, Mark, Seen, missing_count, observe

numbers = st.lists(st.integers(1, 60), max_size=200)


@given(numbers)
def test_every_number_is_applied_exactly_once(sequence: list[int]) -> None:
    """Whatever arrives in whatever order, a number is applied at its first arrival only."""
    mark, seen = Mark(), set[int]()
    for number in sequence:
        mark, verdict = observe(mark, number)
        assert (verdict is Seen.DUPLICATE) == (number in seen)
        seen.add(number)
    assert missing_count(mark) == max(seen, default=0) - len(seen)


@given(st.lists(st.integers(1, 10_000), max_size=400))
def test_the_mark_stays_bounded_and_never_applies_twice(sequence: list[int]) -> None:
    """With more holes than a mark holds, numbers may be given up as lost but none counts twice."""
    mark, applied = Mark(), set[int]()
    for number in sequence:
        mark, verdict = observe(mark, number)
        if verdict is not Seen.DUPLICATE:
            assert number not in applied
            applied.add(number)
    assert len(mark.missing) <= MAX_MISSING_RANGES
    assert mark.highest == len(applied) + missing_count(mark) + mark.lost


def test_a_recovered_number_is_told_from_a_new_one() -> None:
    """A number that fills a hole is named recovered; the one beyond the highest is new."""
    mark, _ = observe(Mark(), 1)
    mark, jumped = observe(mark, 3)
    mark, filled = observe(mark, 2)
    assert (jumped, filled) == (Seen.NEW, Seen.RECOVERED)
    assert mark == Mark(3)


def test_an_overflowing_range_counts_as_lost() -> None:
    """The oldest of 65 holes is given up with all its numbers."""
    mark = Mark()
    for number in range(3, 3 * (MAX_MISSING_RANGES + 2), 3):
        mark, _ = observe(mark, number)
    assert mark.lost == 2
    assert observe(mark, 1)[1] is Seen.DUPLICATE
