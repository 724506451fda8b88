"""The label of one event: its cost, its bands against a frozen baseline, its causes.

Bands by telescoping at the cohort's thresholds: body = min(c, q50), shoulder = min(c, q95) - body,
tail = max(0, c - q95). They add up to the cost for every event, hence for every sum of events. (The
tail is the stop-loss transform of actuarial science.) A correction carries the thresholds of its
original and moves the bands from those of the old cost to those of the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sluice.metering import causes, packaged
from sluice.metering.baselines import Baseline
from sluice.metering.causes import NOTHING, Context, Split
from sluice.metering.cohorts import cohort_of
from sluice.metering.prices import PriceBook
from sluice.metering.rating import Cost, Part, unpriced_parts


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


class Label(NamedTuple):
    """What one event adds to its window row and its task; costs are signed in corrections."""

    cost_pusd: int | None
    parts: tuple[Part, ...]
    bands: Bands
    overhead: Split
    tail_by_cause: Split
    thresholds: Thresholds | None
    price_book_version: str | None
    baseline_version: str | None


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


def usual_input(event: Mapping[str, Any], baseline: Baseline | None) -> int | None:
    """Input length that is usual for an event's model and operation; None where unknown."""
    cohort = cohort_of(event)
    measured = baseline.usual_input(cohort.operation_name, cohort.model) if baseline else None
    if measured is None and event["task_id"] is not None:
        return packaged.TASK_INPUT_TOKENS
    return measured


def label(
    event: Mapping[str, Any], rated: Cost | None, book: PriceBook | None,
    baseline: Baseline | None, context: Context,
) -> Label:  # fmt: skip
    """Label a rated event; one without a price has empty bands."""
    thresholds = thresholds_of(event, book, baseline)
    versions = (book.version if book else None, baseline.version if baseline else None)
    if rated is None:
        parts = unpriced_parts(event)
        return Label(None, parts, Bands(0, 0, 0), NOTHING, NOTHING, thresholds, *versions)
    overhead = causes.split(event, rated.cost_pusd, rated.parts, context)
    bands = bands_for(event, rated.cost_pusd, thresholds)
    if event["event_type"] == "correction":
        # All of a correction has one cause, so has its tail.
        tail = tuple(bands.tail_pusd if share else 0 for share in overhead)
    else:
        tail = causes.allocate(bands.tail_pusd, overhead)
    return Label(rated.cost_pusd, rated.parts, bands, overhead, tail, thresholds, *versions)
