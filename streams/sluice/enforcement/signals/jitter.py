"""Jitter: how far the slow requests of a place lie from its usual ones, against its own past.

The spread is p99 / p50 of the time to the first token, or of a tool's latency. A window of five
minutes is compared with the ones before it, which fade by an eighth at every turn.
"""

from __future__ import annotations

from fractions import Fraction

import msgspec

from sluice.enforcement.signals.signal import Signal, ratio_ppm
from sluice.metering import histogram
from sluice.metering.histogram import Buckets

WINDOW_US = 300_000_000
LEAST_VALUES = 100
_P50, _P99 = Fraction(1, 2), Fraction(99, 100)
_KEPT, _OF = 7, 8


class Spread(msgspec.Struct, array_like=True):
    """Times of one place: of the window `slot` so far, and of earlier windows, faded.

    Buckets are those of `metering.histogram`, without costs.
    """

    slot: int
    now: Buckets = msgspec.field(default_factory=dict)
    past: Buckets = msgspec.field(default_factory=dict)


def turn(spread: Spread, time: int) -> None:
    """Go on to the window of `time` (µs); what was current joins the past once it is over.

    Windows without values do not fade the past: a silent place has the norm that it had.
    """
    slot = time // WINDOW_US
    if slot <= spread.slot:
        return
    if spread.now:
        spread.past = _faded(spread.past)
        histogram.merge(spread.past, spread.now)
        spread.now = {}
    spread.slot = slot


def add(spread: Spread, bucket: int, count: int) -> None:
    """Count `count` values that lie in a bucket of `metering.histogram`; `turn` comes first."""
    spread.now.setdefault(bucket, [0, 0])[0] += count


def jitter(spread: Spread, at_ppm: int) -> Signal | None:
    """The present spread as a multiple of the past one; None until both have enough values."""
    if min(histogram.total(spread.now), histogram.total(spread.past)) < LEAST_VALUES:
        return None
    now, past = spread_ppm(spread.now), spread_ppm(spread.past)
    evidence = (("now_ppm", now), ("past_ppm", past), ("values", histogram.total(spread.now)))
    return Signal("jitter", ratio_ppm(now, past), at_ppm, "ppm", "5m", evidence)


def spread_ppm(buckets: Buckets) -> int:
    """p99 / p50 of a histogram that is not empty."""
    p50, p99 = (histogram.quantile_bucket(buckets, q) for q in (_P50, _P99))
    if p50 is None or p99 is None:
        raise ValueError("an empty histogram has no spread")
    return ratio_ppm(histogram.upper_bound(p99), max(1, histogram.upper_bound(p50)))


def _faded(buckets: Buckets) -> Buckets:
    kept = {index: [count * _KEPT // _OF, 0] for index, (count, _) in buckets.items()}
    return {index: counted for index, counted in kept.items() if counted[0]}
