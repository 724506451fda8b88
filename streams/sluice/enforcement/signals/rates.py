"""The rate that a limited scope is granted: down by a factor under pressure, up in small steps.

Additive increase, multiplicative decrease, as congestion control does it (Chiu and Jain, 1989).
"""

from __future__ import annotations

from sluice.enforcement.signals.signal import PPM

_DOWN, _DOWN_OF = 7, 10
_UP_SHARE = 20  # a twentieth of the entitlement
_CALM_PPM = 800_000


def next_rate(rate: int, pressure_ppm: int, *, entitled: int, floor: int) -> int:
    """The next granted rate within [floor, entitled], all in requests a minute.

    Above a pressure of 1 it shrinks to 0.7 of itself, below 0.8 it grows by 5 % of what the scope
    is entitled to, in between it stays. Pressure: `burn.forecast`.
    """
    if pressure_ppm > PPM:
        rate = rate * _DOWN // _DOWN_OF
    elif pressure_ppm < _CALM_PPM:
        rate += max(1, entitled // _UP_SHARE)
    return min(entitled, max(floor, rate))
