"""Which events of a producer were seen: exact for numbered events, whatever order they come in.

A producer numbers its events per (source, source_epoch, message key), starting at 1, and keeps an
event's number when it sends it again. The mark of such a run is the highest number seen and the
ranges still missing below it; 64 ranges are kept, an overflowing oldest one counts as lost.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

MAX_MISSING_RANGES = 64


class Seen(Enum):
    """What a number means to the run it belongs to."""

    NEW = "new"
    DUPLICATE = "duplicate"
    RECOVERED = "recovered"


class Mark(NamedTuple):
    """Numbers seen of one run: everything up to `highest` but the `missing` ranges.

    `missing` holds inclusive (first, last) pairs in ascending order; `lost` counts numbers of
    ranges that were given up.
    """

    highest: int = 0
    missing: tuple[tuple[int, int], ...] = ()
    lost: int = 0


def observe(mark: Mark, sequence: int) -> tuple[Mark, Seen]:
    """The mark after `sequence` (≥ 1) arrived, and whether its event is to be applied.

    Only DUPLICATE must not be applied. A number of a range already given up counts as a
    duplicate: nothing tells it apart from one that was applied.
    """
    if sequence == mark.highest + 1:
        return Mark(sequence, mark.missing, mark.lost), Seen.NEW
    if sequence > mark.highest:
        return _jump(mark, sequence), Seen.NEW
    for index, (first, last) in enumerate(mark.missing):
        if first <= sequence <= last:
            rest = _without(first, last, sequence)
            missing = mark.missing[:index] + rest + mark.missing[index + 1 :]
            return _bounded(Mark(mark.highest, missing, mark.lost)), Seen.RECOVERED
    return mark, Seen.DUPLICATE


def missing_count(mark: Mark) -> int:
    """How many numbers below the highest have not arrived yet."""
    return sum(last - first + 1 for first, last in mark.missing)


def _jump(mark: Mark, sequence: int) -> Mark:
    hole = (mark.highest + 1, sequence - 1)
    return _bounded(Mark(sequence, (*mark.missing, hole), mark.lost))


def _without(first: int, last: int, sequence: int) -> tuple[tuple[int, int], ...]:
    halves = ((first, sequence - 1), (sequence + 1, last))
    return tuple((a, b) for a, b in halves if a <= b)


def _bounded(mark: Mark) -> Mark:
    if len(mark.missing) <= MAX_MISSING_RANGES:
        return mark
    (first, last), *rest = mark.missing
    return Mark(mark.highest, tuple(rest), mark.lost + last - first + 1)
