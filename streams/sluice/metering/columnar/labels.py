"""Thresholds and bands of many events, like `labels` gives them for one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sluice.metering.baselines import Baseline
from sluice.metering.cohorts import HOUR_US, SIZES
from sluice.metering.columnar.prices import Prices, blank_event, names_of
from sluice.metering.columnar.usage import Usage, grouped
from sluice.metering.labels import thresholds_of
from sluice.money import INT64_MAX
from sluice.wire.column_types import Bools, Ints

_NAMES = ("event_type", "operation_name", "provider_name", "request_model", "response_model",
          "service_tier", "tool_name")  # fmt: skip


class Limits(NamedTuple):
    """Thresholds in pico-USD, 0 where not `known`; rows not `done` are left open."""

    q50_pusd: Ints
    q95_pusd: Ints
    known: Bools
    packaged: Bools
    done: Bools

    def take(self, kept: Bools) -> Limits:
        """The thresholds of some rows only."""
        return Limits(self.q50_pusd[kept], self.q95_pusd[kept], self.known[kept],
                      self.packaged[kept], self.done[kept])  # fmt: skip


class BandSums(NamedTuple):
    """Parts of the costs that add up to them."""

    body_pusd: Ints
    shoulder_pusd: Ints
    tail_pusd: Ints


def limits(usage: Usage, prices: Prices, baseline: Baseline | None) -> Limits:
    """Thresholds of every event that is no correction; corrections are left open."""
    at, tokens = usage.number("occurred_at").value, usage.number("input_tokens").value
    is_tool = usage.coded("event_type").where("tool")
    size = np.searchsorted(np.array(SIZES), tokens, side="left").astype(np.int64)
    sizes = np.where(is_tool, 0, size)
    tenants = prices.tenants(usage.coded("tenant_id"))
    intervals = prices.interval(at - at % HOUR_US)
    groups = grouped(*(usage.coded(name).codes for name in _NAMES), sizes, tenants, intervals)
    version, first = baseline.version if baseline else None, groups.first
    numbers = (column[first].tolist() for column in (sizes, tenants, intervals))
    questions = zip(names_of(usage, _NAMES, first), *numbers, strict=True)
    found = [
        prices.kept.get(("limits", version, *question), partial(
            _limits_of, usage, row, prices, baseline
        ))
        for row, question in zip(first.tolist(), questions, strict=True)
    ]  # fmt: skip
    of = np.array(found, dtype=np.int64).reshape(-1, 5)[groups.of]
    return Limits(of[:, 0], of[:, 1], of[:, 2] != 0, of[:, 3] != 0, of[:, 4] != 0)


def _limits_of(
    usage: Usage, row: int, prices: Prices, baseline: Baseline | None
) -> tuple[int, int, bool, bool, bool]:
    tokens = int(usage.number("input_tokens").value[row])
    return _limits({**blank_event(usage, row), "input_tokens": tokens}, prices, baseline)


def _limits(
    event: Mapping[str, Any], prices: Prices, baseline: Baseline | None
) -> tuple[int, int, bool, bool, bool]:
    """A row of Limits."""
    if event["event_type"] == "correction":
        return 0, 0, False, False, False
    try:
        found = thresholds_of(event, prices.book, baseline)
    except OverflowError:
        return 0, 0, False, False, False
    if found is None:
        return 0, 0, False, False, True
    if max(map(abs, found[:2])) > INT64_MAX:
        return 0, 0, False, False, False
    return found.q50_pusd, found.q95_pusd, True, found.packaged, True


def bands(cost_pusd: Ints, limits: Limits) -> BandSums:
    """Bands of costs; without thresholds all of a cost is body."""
    body = np.where(limits.known, np.minimum(cost_pusd, limits.q50_pusd), cost_pusd)
    usual = np.where(limits.known, np.minimum(cost_pusd, limits.q95_pusd), cost_pusd)
    return BandSums(body, usual - body, cost_pusd - usual)
