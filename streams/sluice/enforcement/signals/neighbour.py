"""Noisy neighbours: one tenant takes most of a pool while the others wait longer than usual.

Both have to be true: a busy tenant of an idle pool disturbs nobody. All sums add up, so those of
several partitions can be added before they are judged.
"""

from __future__ import annotations

from typing import NamedTuple

from sluice.enforcement.signals.signal import Signal, ratio_ppm


class PoolUse(NamedTuple):
    """What was taken of a pool: `load` in tokens (an output token weighs two), and waiting times.

    `waited` counts the requests whose waiting time was measured. Weights: VTC (OSDI 2024).
    """

    load: int
    queue_us: int
    waited: int

    def without(self, other: PoolUse) -> PoolUse:
        """What is left when another's use is taken out."""
        return PoolUse(
            self.load - other.load, self.queue_us - other.queue_us, self.waited - other.waited
        )

    @property
    def mean_queue_us(self) -> int:
        """Mean waiting time, 0 where none was measured."""
        return self.queue_us // self.waited if self.waited else 0


class Patience(NamedTuple):
    """When others count as waiting.

    Their mean is at least `least_us` and at least `over_usual_ppm` of the usual mean, and
    `least_waited` of their requests were measured.
    """

    least_us: int
    over_usual_ppm: int
    least_waited: int


def noisy_neighbour(
    own: PoolUse, whole: PoolUse, usual: PoolUse, patience: Patience, window: str, at_ppm: int
) -> Signal:
    """A tenant's share of a pool's load while others wait, else 0.

    `own` and `whole` are of the same window, `usual` is the whole pool over a longer one.
    """
    others = whole.without(own)
    share = ratio_ppm(own.load, whole.load)
    evidence = (
        ("share_ppm", share), ("others_queue_us", others.mean_queue_us),
        ("usual_queue_us", usual.mean_queue_us), ("others_waited", others.waited),
    )  # fmt: skip
    value = share if _wait(others, usual, patience) else 0
    return Signal("noisy_neighbour", value, at_ppm, "ppm", window, evidence)


def _wait(others: PoolUse, usual: PoolUse, patience: Patience) -> bool:
    mean = others.mean_queue_us
    return (
        others.waited >= patience.least_waited
        and mean >= patience.least_us
        and ratio_ppm(mean, usual.mean_queue_us) >= patience.over_usual_ppm
    )
