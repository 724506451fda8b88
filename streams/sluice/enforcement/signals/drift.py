"""Drift: whether what a scope's requests cost has moved upwards for good.

A one-sided CUSUM (Page, 1954) on the logarithm of cost, which is the number of its bucket in
`metering.histogram`. The first 200 values of a scope give mean and deviation, which then stand
still; the score adds up how far each value lies above mean + 0.5 deviations. A score of 8 comes
once in 19,000 ordinary values, but after 16 that lie one deviation higher.
"""

from __future__ import annotations

import numpy as np

from sluice.compiled import compiled
from sluice.enforcement.signals.signal import PPM, Signal
from sluice.wire.column_types import Bools, Ints

LEARNED = 200
# Of one scope: values learned or seen since the alarm, sum, squares (later: deviation x count),
# score in thousandths of a deviation.
WIDTH = 4
DEFAULT_AT = 8 * PPM
_SEEN, _SUM, _SQUARES, _SCORE = range(WIDTH)
_SLACK_MILLI = 500
_ALARM_MILLI = 8_000
_MOST_MILLI = 2 * _ALARM_MILLI
# A scope whose requests all cost alike deviates by 5 buckets (10 %) at least.
_LEAST_BUCKETS = 5


def drift(state: Ints, at_ppm: int = DEFAULT_AT) -> Signal | None:
    """The score of one scope, in millionths of a deviation; None while it learns."""
    if state[_SEEN] < LEARNED:
        return None
    evidence = (("values", int(state[_SEEN])),)
    return Signal("drift", int(state[_SCORE]) * 1000, at_ppm, "ppm", "", evidence)


def reached(states: Ints, at_ppm: int) -> Bools:
    """Which of many scopes have a score of `at_ppm` or more."""
    return np.asarray((states[:, _SEEN] >= LEARNED) & (states[:, _SCORE] * 1000 >= at_ppm))


def blank(scopes: int) -> Ints:
    """States of scopes of which nothing was seen."""
    return np.zeros((scopes, WIDTH), dtype=np.int64)


@compiled
def follow(states: Ints, rows: Ints, buckets: Ints) -> None:
    """Take the bucket of each value's cost into the state of its row, in order.

    After an alarm that has lasted for 200 values the new level is learned as the norm.
    """
    for i in range(len(rows)):
        state, value = states[rows[i]], buckets[i] + 1
        if state[_SEEN] < LEARNED:
            state[_SEEN] += 1
            state[_SUM] += value
            state[_SQUARES] += value * value
            if state[_SEEN] == LEARNED:
                squared = LEARNED * state[_SQUARES] - state[_SUM] * state[_SUM]
                state[_SQUARES] = max(int(np.sqrt(squared)), LEARNED * _LEAST_BUCKETS)
            continue
        above = (value * LEARNED - state[_SUM]) * 1000 // state[_SQUARES]
        score = max(0, state[_SCORE] + above - _SLACK_MILLI)
        state[_SCORE] = min(score, _MOST_MILLI)
        state[_SEEN] = state[_SEEN] + 1 if score >= _ALARM_MILLI else LEARNED
        if state[_SEEN] == 2 * LEARNED:
            state[:] = 0
