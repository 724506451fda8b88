"""Shares of ledgers that span tenants, and how they travel."""

from __future__ import annotations

import pytest

from sluice.enforcement.shares import Share, ShareKey, Sums, add, read_share, share_record, sums_of
from sluice.money import INT64_MAX
from sluice.wire.codec import decode, encode


@pytest.mark.parametrize("who", [(), ("gateway", "e1")])
def test_a_share_travels_whole(who: tuple[str, ...]) -> None:
    """A PartialRow says all of it, with or without a process."""
    key = ShareKey(3, "p", "day", "model=m", "2026-11-25", *who)
    share = Share("pusd", 1, 2, 3, 40, -5, 6, 7, 8, closing=True)
    assert read_share(decode(encode("PartialRow", share_record(key, share)))[1]) == (key, share)


def test_a_share_that_would_overflow_takes_nothing() -> None:
    """Either all sums move or none."""
    share = Share("pusd", 1, 2, 3, INT64_MAX, 0, 1, 0)
    with pytest.raises(OverflowError):
        add(share, Sums(1, 1, 1, 1))
    assert sums_of(share) == Sums(INT64_MAX, 0, 1, 0)
    add(share, Sums(-1, -1, 1, 1))
    assert sums_of(share) == Sums(INT64_MAX - 1, -1, 2, 1)
