"""Every event of a run priced and judged: by columns where those decide, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sluice.metering.baselines import Baseline
from sluice.metering.classes import RATE_CLASSES, UNCLASSIFIED
from sluice.metering.columnar.labels import Limits, bands, limits
from sluice.metering.columnar.prices import Prices
from sluice.metering.columnar.rating import Parts, rate
from sluice.metering.columnar.usage import Usage
from sluice.metering.labels import Bands, Thresholds, bands_for, bands_of, thresholds_of
from sluice.metering.parts import Part
from sluice.metering.rating import cost, unpriced_parts
from sluice.money import INT64_MAX
from sluice.wire.column_types import Bools, Ints

_PLACES = {name: place for place, name in enumerate((*RATE_CLASSES, UNCLASSIFIED))}
# Below this many events the columns' own cost is more than they save.
_FEWEST = 12

EventOf = Callable[[int], Mapping[str, Any]]


class Priced(NamedTuple):
    """Costs (0 without a price), parts, thresholds and bands (one row per band) of a run."""

    cost_pusd: Ints
    priced: Bools
    parts: Parts
    limits: Limits
    bands: Ints

    def take(self, rows: Ints) -> Priced:
        """Those of some rows, in ascending order."""
        kept = np.zeros(len(self.cost_pusd), dtype=np.bool_)
        kept[rows] = True
        chosen = kept[self.parts.row]
        row, *rest = (column[chosen] for column in self.parts)
        parts = Parts((np.cumsum(kept) - 1)[row], *rest)
        return Priced(self.cost_pusd[rows], self.priced[rows], parts, self.limits.take(kept),
                      np.ascontiguousarray(self.bands[:, rows]))  # fmt: skip


class _One(NamedTuple):
    """What the function for one event says."""

    row: int
    cost_pusd: int | None
    parts: tuple[Part, ...]
    thresholds: Thresholds | None
    bands: Bands


def priced(
    usage: Usage, prices: Prices, baseline: Baseline | None, event_of: EventOf
) -> tuple[Priced, dict[int, OverflowError]]:
    """Costs of usage events and corrections, and the rows whose cost leaves 64 bits.

    `event_of` gives a row's fields. Rows without a cost must be left out before any are added up.
    """
    rows = usage.rows
    if rows < _FEWEST:
        found, left = _nothing(rows), np.arange(rows)
    else:
        rated, judged = rate(usage, prices), limits(usage, prices, baseline)
        done = rated.done & judged.done
        found = Priced(
            np.where(done, rated.cost_pusd, 0), rated.priced & done, _of(rated.parts, done),
            judged, np.stack(bands(np.where(rated.priced & done, rated.cost_pusd, 0), judged)),
        )  # fmt: skip
        left = np.flatnonzero(~done)
    if not len(left):
        return found, {}
    return _completed(found, left.tolist(), prices, baseline, event_of)


def _nothing(rows: int) -> Priced:
    none, no = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.bool_)
    empty = np.zeros(0, dtype=np.int64)
    return Priced(
        none.copy(), no.copy(), Parts(empty, empty, empty, empty),
        Limits(none.copy(), none.copy(), no.copy(), no.copy(), no.copy()),
        np.zeros((3, rows), dtype=np.int64),
    )  # fmt: skip


def _of(parts: Parts, done: Bools) -> Parts:
    kept = done[parts.row]
    return parts if kept.all() else Parts(*(column[kept] for column in parts))


def _completed(
    found: Priced, left: Iterable[int], prices: Prices, baseline: Baseline | None, event_of: EventOf
) -> tuple[Priced, dict[int, OverflowError]]:
    ones, refused = [], {}
    for row in left:
        try:
            ones.append(_one(row, event_of(row), prices, baseline))
        except OverflowError as error:
            refused[row] = error
    for one in ones:
        _put(found, one)
    return found._replace(parts=_merged(found.parts, ones)), refused


def _one(row: int, event: Mapping[str, Any], prices: Prices, baseline: Baseline | None) -> _One:
    rated = cost(prices.book, event)
    thresholds = thresholds_of(event, prices.book, baseline)
    if rated is None:
        return _One(row, None, unpriced_parts(event), thresholds, bands_of(0, None))
    banded = bands_for(event, rated.cost_pusd, thresholds)
    return _One(row, rated.cost_pusd, rated.parts, thresholds, banded)


def _put(found: Priced, one: _One) -> None:
    row = one.row
    found.cost_pusd[row], found.priced[row] = one.cost_pusd or 0, one.cost_pusd is not None
    found.bands[:, row] = one.bands
    if one.thresholds is None:
        found.limits.known[row] = found.limits.packaged[row] = False
        return
    # No cost is larger: a threshold beyond 64 bits bounds nothing, wherever exactly it is.
    found.limits.q50_pusd[row] = min(one.thresholds.q50_pusd, INT64_MAX)
    found.limits.q95_pusd[row] = min(one.thresholds.q95_pusd, INT64_MAX)
    found.limits.known[row], found.limits.packaged[row] = True, one.thresholds.packaged


def _merged(parts: Parts, ones: Iterable[_One]) -> Parts:
    more = [
        (one.row, _PLACES[part.key], part.quantity, part.cost_pusd)
        for one in ones
        for part in one.parts
    ]
    columns = np.array(more, dtype=np.int64).reshape(-1, 4).T
    joined = [np.concatenate(pair) for pair in zip(parts, columns, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return Parts(*(column[order] for column in joined))
