"""Token buckets in exact integers.

A bucket belongs to one admission point, so the rate of a decision is the rate of each point: ten
gateway processes under one decision admit up to ten times as much.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

# One token in the units that buckets count in. A minute has as many microseconds, so a microsecond
# adds exactly `rate_per_minute` units and nothing is ever rounded.
TOKEN = 60_000_000
ALL_PPM = 1_000_000


class Rate(NamedTuple):
    """A rate limit: requests per minute in the long run, and how many at once."""

    rate_per_minute: int
    burst: int


class Limit(NamedTuple):
    """A rate limit under the control key that its bucket belongs to."""

    key: bytes
    rate: Rate


class Shortage(NamedTuple):
    """The limit that has no token left, and how long until it has one."""

    key: bytes
    wait_us: int


class Bucket:
    """Tokens left under one rate; begins full."""

    __slots__ = ("_level", "_rate", "_updated_at")

    def __init__(self, rate: Rate, now: int) -> None:
        self._rate = rate
        self._level = rate.burst * TOKEN
        self._updated_at = now

    def refill(self, rate: Rate, now: int) -> None:
        """Bring the bucket to the instant `now` (µs) and on to `rate`.

        What was left stays, up to the burst of the new rate. A clock that was set back adds
        nothing, and counting goes on from there.
        """
        if now > self._updated_at:
            full = self._level + (now - self._updated_at) * self._rate.rate_per_minute
            self._level = min(full, self._rate.burst * TOKEN)
        if rate is not self._rate:
            self._level = min(self._level, rate.burst * TOKEN)
            self._rate = rate
        self._updated_at = now

    def wait_us(self) -> int:
        """Time until there is a whole token, as of the last refill; 0 = there is one."""
        if self._level >= TOKEN:
            return 0
        return -(-(TOKEN - self._level) // self._rate.rate_per_minute)

    def take(self) -> None:
        """Remove one token; the caller has seen that there is one."""
        self._level -= TOKEN


class Shares:
    """Refuses an exact share of requests, evenly spread, by control key."""

    def __init__(self) -> None:
        self._owed: dict[bytes, int] = {}

    def drops(self, key: bytes, drop_ppm: int) -> bool:
        """Whether the next request is one of the share (parts per million) to refuse."""
        owed = self._owed.get(key, 0) + min(drop_ppm, ALL_PPM)
        dropped = owed >= ALL_PPM
        self._owed[key] = owed - ALL_PPM if dropped else owed
        return dropped

    def keep_only(self, keys: Collection[bytes]) -> None:
        """Forget all other keys."""
        self._owed = {key: owed for key, owed in self._owed.items() if key in keys}


class Buckets:
    """The buckets of one admission point, by control key."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, Bucket] = {}

    def take(self, limits: Collection[Limit], now: int) -> Shortage | None:
        """Take one token from the bucket of every limit, or none at all.

        Returns the limit with the longest wait where any has no token left.
        """
        buckets, shortage = [], None
        for limit in limits:
            bucket = self._at(limit, now)
            buckets.append(bucket)
            wait_us = bucket.wait_us()
            if wait_us and (shortage is None or wait_us > shortage.wait_us):
                shortage = Shortage(limit.key, wait_us)
        if shortage is None:
            for bucket in buckets:
                bucket.take()
        return shortage

    def drop(self, key: bytes) -> None:
        """Forget the bucket of a decision that was lifted."""
        self._buckets.pop(key, None)

    def keep_only(self, keys: Collection[bytes]) -> None:
        """Forget the buckets of all other keys."""
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key in keys}

    def _at(self, limit: Limit, now: int) -> Bucket:
        bucket = self._buckets.get(limit.key)
        if bucket is None:
            bucket = self._buckets[limit.key] = Bucket(limit.rate, now)
        else:
            bucket.refill(limit.rate, now)
        return bucket
