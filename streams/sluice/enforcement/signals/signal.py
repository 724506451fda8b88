"""One measured number, the threshold it is held against, and the numbers behind it."""

from __future__ import annotations

from typing import NamedTuple

from sluice.money import INT64_MAX

PPM = 1_000_000


class Signal(NamedTuple):
    """A signal of one scope at one time.

    `value` and `threshold` are in `unit` (ppm, count, pusd, us); `window` is what was summed;
    `evidence` has the sums behind the value, by name.
    """

    name: str
    value: int
    threshold: int
    unit: str
    window: str
    evidence: tuple[tuple[str, int], ...] = ()

    @property
    def reached(self) -> bool:
        """Whether the threshold is reached."""
        return self.value >= self.threshold

    def holds(self, numerator: int, denominator: int) -> bool:
        """Whether the value is still at or above this share of the threshold."""
        return self.value * denominator >= self.threshold * numerator


def ratio_ppm(numerator: int, denominator: int) -> int:
    """`numerator / denominator` in parts per million, rounded down and bounded to 64 bits.

    Something over nothing is the largest number, nothing over nothing is 0.
    """
    if denominator <= 0:
        return INT64_MAX if numerator > 0 else 0
    return min(numerator * PPM // denominator, INT64_MAX)
