"""Usage events of a run of records as columns of their table, without a dictionary per event.

Only events that are surely fine and whose price and label follow from simple rules are taken; the
others are named, to be converted one by one. Both give the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sluice.metering.baselines import Baseline
from sluice.metering.classes import RATE_CLASSES
from sluice.metering.columnar.checks import surely_fine
from sluice.metering.columnar.labels import Limits, bands, limits
from sluice.metering.columnar.prices import Prices
from sluice.metering.columnar.rating import Parts, Rated, rate
from sluice.metering.columnar.usage import Usage, whole_usage
from sluice.metering.windows import FUTURE_US
from sluice.runtime.storing import LAST_OFFSET
from sluice.wire.column_types import Bools, Column, Ints, Items, Numbers
from sluice.wire.columns import read_usage

Arrays = dict[str, pa.Array]

# Of the event's own these do not go into the table: the sink says what it cost.
_REPLACED = frozenset(
    ("end_mark", "cost_pusd", "cost_source", "usage_by_class", "baseline_q50_pusd",
     "baseline_q95_pusd", "price_book_version")
)  # fmt: skip
_CLASS_NAMES = pa.array(RATE_CLASSES, pa.string())


class Run(NamedTuple):
    """Consecutive usage records under one price book and one baseline.

    `times` is the partition's time (µs) at each record, `broker_times` the broker's own.
    """

    values: Sequence[bytes]
    keys: Sequence[bytes | None]
    offsets: Ints
    times: Ints
    broker_times: Ints


class Place(NamedTuple):
    """Where a run stands: its partition, and what versions of its rows are counted from."""

    partition: int
    version_base: int


def usage_columns(
    run: Run, place: Place, prices: Prices, baseline: Baseline | None
) -> tuple[Arrays, Ints]:
    """Columns of usage_events, and which records of the run are not among them."""
    columns = read_usage(run.values)
    usage, chosen = whole_usage(columns)
    fine = surely_fine(usage, [run.keys[row] for row in chosen.tolist()], run.times[chosen])
    usage, chosen = _kept(usage, chosen, fine)
    rated, found = rate(usage, prices), limits(usage, prices, baseline)
    done = (rated.done & found.done) | usage.coded("event_type").where("admission")
    if not done.all():
        usage, chosen = _kept(usage, chosen, done)
        rated, found = rated.take(done), found.take(done)
    asked = ~usage.coded("event_type").where("admission")
    arrays = _own(usage) | _priced(usage, rated, found, asked)
    arrays |= _versions(usage, prices, found, baseline, asked)
    arrays |= _placed(usage, run, place, chosen)
    return arrays, np.setdiff1d(np.arange(len(columns.whole)), chosen, assume_unique=True)


def _kept(usage: Usage, chosen: Ints, kept: Bools) -> tuple[Usage, Ints]:
    if kept.all():
        return usage, chosen
    return usage.take(np.flatnonzero(kept)), chosen[kept]


def _own(usage: Usage) -> Arrays:
    """What the event itself says."""
    return {
        name: _array(usage, name, column)
        for name, column in usage.columns.items()
        if name not in _REPLACED
    }


def _array(usage: Usage, name: str, column: Column) -> pa.Array:
    if isinstance(column, Items):
        return column.array(usage.rows)
    coded = usage.known_codes(name)
    return column.array() if coded is None else _from_codes(coded.codes, coded.values)


def _from_codes(codes: Ints, values: Sequence[str | None]) -> pa.Array:
    """Names as an Arrow dictionary, in which no value is null."""
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(known, pa.string()))
    null = values.index(None)
    places = np.where(codes > null, codes - 1, codes).astype(np.int32)
    indices = pa.array(places, mask=codes == null)
    return pa.DictionaryArray.from_arrays(indices, pa.array(known, pa.string()))


def _priced(usage: Usage, rated: Rated, found: Limits, asked: Bools) -> Arrays:
    """Cost, classes, thresholds and bands; empty where nothing was `asked` for."""
    known = found.known & asked
    banded = bands(rated.cost_pusd, found)
    paid = np.where(rated.priced & asked, 1, 0)
    return {
        "cost_pusd": Numbers(rated.cost_pusd, rated.priced & asked).array(),
        "cost_source": _sources(usage, rated, rated.priced & asked),
        "usage_by_class": _parts(rated.parts, usage.rows),
        "baseline_q50_pusd": Numbers(found.q50_pusd, known).array(),
        "baseline_q95_pusd": Numbers(found.q95_pusd, known).array(),
        **{name: pa.array(band * paid) for name, band in banded._asdict().items()},
        "unpriced": pa.array(asked & ~rated.priced).cast(pa.uint8()),
    }


def _sources(usage: Usage, rated: Rated, priced: Bools) -> pa.Array:
    """Who says what a priced event cost; others keep what they stated."""
    stated = usage.coded("cost_source")
    names = [*stated.values, *(n for n in ("estimate", "contract") if n not in stated.values)]
    said = np.where(rated.contract, names.index("contract"), names.index("estimate"))
    return _from_codes(np.where(priced, said, stated.codes), names)


def _parts(parts: Parts, rows: int) -> pa.Array:
    arrays = [
        _CLASS_NAMES.take(pa.array(parts.key)),
        pa.array(parts.quantity),
        pa.array(parts.cost_pusd),
    ]
    entries = pa.StructArray.from_arrays(arrays, ["key", "quantity", "cost_pusd"])
    ends = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(np.bincount(parts.row, minlength=rows), out=ends[1:])
    return pa.ListArray.from_arrays(pa.array(ends), entries)


def _versions(
    usage: Usage, prices: Prices, found: Limits, baseline: Baseline | None, asked: Bools
) -> Arrays:
    """The book and the baseline that were used; events that cost nothing state their own book."""
    stated = usage.coded("price_book_version")
    book = None if prices.book is None else prices.book.version
    codes, names = stated.codes, stated.values
    if book is not None:
        names = names if book in names else [*names, book]
        codes = np.where(asked, names.index(book), codes)
    labelled = found.known & asked & (found.packaged | (baseline is not None))
    label = np.where(labelled, np.where(found.packaged, 1, 2), 0)
    version = baseline.version if baseline else ""
    return {
        "price_book_version": _from_codes(codes, names),
        "baseline_version": _from_codes(label, [None, "packaged", version]),
    }


def _placed(usage: Usage, run: Run, place: Place, chosen: Ints) -> Arrays:
    offsets, latest = run.offsets[chosen], run.times[chosen] + FUTURE_US
    latest_version = np.uint64(place.version_base + LAST_OFFSET)
    return {
        "occurred_at_clamped": pa.array(np.minimum(usage.number("occurred_at").value, latest)),
        "source_partition": pa.array(np.full(usage.rows, place.partition, dtype=np.int64)),
        "source_offset": pa.array(offsets),
        "broker_time": pa.array(run.broker_times[chosen]),
        "version": pa.array(latest_version - offsets.astype(np.uint64)),
    }
