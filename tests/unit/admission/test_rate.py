"""Token buckets."""

from __future__ import annotations

from tests.unit.admission.messages import MINUTE_US, NOW

from sluice.admission.rate import Buckets, Limit, Rate

SLOW = Limit(b"slow", Rate(60, 2))
FAST = Limit(b"fast", Rate(600, 5))


def granted(buckets: Buckets, limit: Limit, now: int, tries: int = 20) -> int:
    """How many of some requests at one instant get a token."""
    return sum(buckets.take([limit], now) is None for _ in range(tries))


def test_a_bucket_begins_full_and_fills_at_its_rate() -> None:
    """The burst is there at once, then one token a second, and never more than the burst."""
    buckets = Buckets()
    assert granted(buckets, SLOW, NOW) == 2
    assert granted(buckets, SLOW, NOW + 999_999) == 0
    assert granted(buckets, SLOW, NOW + 1_000_000) == 1
    assert granted(buckets, SLOW, NOW + 60 * MINUTE_US) == 2


def test_fractions_of_a_token_add_up_exactly() -> None:
    """Seven a minute, asked for every 9,973 µs: exactly seven in a minute, nothing rounded away."""
    buckets, odd = Buckets(), Limit(b"odd", Rate(7, 2))
    assert granted(buckets, odd, NOW) == 2
    steps = range(NOW, NOW + MINUTE_US + 1, 9973)
    got = sum(buckets.take([odd], at) is None for at in (*steps, NOW + MINUTE_US))
    assert got == 7


def test_waits_are_rounded_up() -> None:
    """At seven a minute a token takes 8,571,428.6 µs: one microsecond earlier there is none."""
    buckets, odd = Buckets(), Limit(b"odd", Rate(7, 1))
    granted(buckets, odd, NOW)
    shortage = buckets.take([odd], NOW)
    assert shortage is not None
    assert shortage.wait_us == 8_571_429
    assert granted(buckets, odd, NOW + 8_571_428) == 0


def test_all_or_nothing() -> None:
    """Where one of two buckets is empty, the other one keeps its tokens."""
    buckets = Buckets()
    granted(buckets, SLOW, NOW)
    shortage = buckets.take([FAST, SLOW], NOW)
    assert shortage is not None
    assert (shortage.key, shortage.wait_us) == (b"slow", 1_000_000)
    assert granted(buckets, FAST, NOW) == 5


def test_the_longest_wait_is_named() -> None:
    """Of two empty buckets the one that takes longer is told."""
    buckets = Buckets()
    granted(buckets, SLOW, NOW)
    granted(buckets, FAST, NOW)
    shortage = buckets.take([SLOW, FAST], NOW)
    assert shortage is not None
    assert shortage.key == b"slow"


def test_a_new_decision_with_the_same_rate_keeps_the_fill() -> None:
    """An empty bucket stays empty; another rate does not hand out a new burst either."""
    buckets = Buckets()
    granted(buckets, SLOW, NOW)
    assert granted(buckets, Limit(b"slow", Rate(60, 2)), NOW) == 0
    assert granted(buckets, Limit(b"slow", Rate(120, 50)), NOW) == 0
    assert granted(buckets, Limit(b"slow", Rate(120, 50)), NOW + 1_000_000) == 2


def test_a_larger_burst_is_not_filled_from_the_time_before() -> None:
    """Idle time under the old rate has filled the bucket to the old burst only."""
    buckets = Buckets()
    granted(buckets, SLOW, NOW)
    later = NOW + 60 * MINUTE_US
    assert granted(buckets, Limit(b"slow", Rate(60, 50)), later) == 2


def test_a_smaller_burst_cuts_what_is_left() -> None:
    """Tokens above the new burst are gone."""
    buckets = Buckets()
    buckets.take([FAST], NOW)
    assert granted(buckets, Limit(b"fast", Rate(600, 3)), NOW) == 3


def test_a_clock_set_back_neither_grants_nor_freezes() -> None:
    """Going back adds no token, and counting goes on from the earlier time."""
    buckets = Buckets()
    granted(buckets, SLOW, NOW)
    assert granted(buckets, SLOW, NOW - MINUTE_US) == 0
    assert granted(buckets, SLOW, NOW - MINUTE_US + 1_000_000) == 1


def test_a_lifted_key_begins_anew() -> None:
    """Dropped buckets and those not kept begin full again."""
    buckets = Buckets()
    for limit in (SLOW, FAST):
        granted(buckets, limit, NOW)
    buckets.keep_only({b"fast"})
    assert (granted(buckets, SLOW, NOW), granted(buckets, FAST, NOW)) == (2, 0)
    buckets.drop(b"fast")
    assert granted(buckets, FAST, NOW) == 5
