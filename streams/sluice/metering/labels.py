"""What an event normally costs, and the bands of its cost against that.

Bands by telescoping at the cohort's thresholds: body = min(c, q50), shoulder = min(c, q95) - body,
tail = max(0, c - q95). They add up to the cost for every event, hence for every sum of events. (The
tail is the stop-loss transform of actuarial science.) A correction carries the thresholds of its
original and moves the bands from those of the old cost to those of the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sluice.metering import packaged
from sluice.metering.baselines import Baseline
from sluice.metering.cohorts import cohort_of
from sluice.metering.prices import PriceBook


class Thresholds(NamedTuple):
    """What normally costs at most q50 and q95; `packaged`: estimated, not measured."""

    q50_pusd: int
    q95_pusd: int
    packaged: bool = False


class Bands(NamedTuple):
    """Parts of a cost that add up to it."""

    body_pusd: int
    shoulder_pusd: int
    tail_pusd: int


def bands_of(cost_pusd: int, thresholds: Thresholds | None) -> Bands:
    """Bands of a cost; without thresholds all of it is body."""
    if thresholds is None:
        return Bands(cost_pusd, 0, 0)
    body, usual = min(cost_pusd, thresholds.q50_pusd), min(cost_pusd, thresholds.q95_pusd)
    return Bands(body, usual - body, cost_pusd - usual)


def bands_for(event: Mapping[str, Any], cost_pusd: int, thresholds: Thresholds | None) -> Bands:
    """What an event adds to the bands; a correction moves its original from old to new cost."""
    if event["event_type"] != "correction":
        return bands_of(cost_pusd, thresholds)
    before = event["original_cost_pusd"] or 0
    old, new = bands_of(before, thresholds), bands_of(before + cost_pusd, thresholds)
    return Bands(*(after - earlier for after, earlier in zip(new, old, strict=True)))


def thresholds_of(
    event: Mapping[str, Any], book: PriceBook | None, baseline: Baseline | None
) -> Thresholds | None:
    """Thresholds of an event's cohort, measured or packaged; None where nothing is known.

    Those of a correction are its original's, which it carries.
    """
    if event["event_type"] == "correction":
        q50, q95 = event["baseline_q50_pusd"], event["baseline_q95_pusd"]
        return None if q50 is None or q95 is None else Thresholds(q50, q95)
    if event["event_type"] == "gpu_adjustment":
        return None  # it adds to a request that was judged already
    norm = baseline.norm(cohort_of(event)) if baseline else None
    if norm is not None:
        return Thresholds(norm.q50_pusd, norm.q95_pusd)
    typical = packaged.thresholds(event, book)
    return None if typical is None else Thresholds(*typical, packaged=True)
