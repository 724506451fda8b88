"""Costs, thresholds and bands of runs against those of single events."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import usage
from tests.laws.rich_usage import RICH, SIMPLE, listed_fields, odd_fields, sound_events
from tests.laws.streams import BASELINES
from tests.window_columns import usage_of

from sluice.metering.baselines import Baseline
from sluice.metering.columnar import priced as module
from sluice.metering.columnar.priced import Priced, priced
from sluice.metering.columnar.prices import Prices
from sluice.metering.columnar.window_rows import CLASSES
from sluice.metering.labels import bands_for, thresholds_of
from sluice.metering.prices import PriceBook
from sluice.metering.rating import cost, unpriced_parts
from sluice.money import INT64_MAX
from sluice.wire.codec import decode, encode

_kinds = st.one_of(
    *[sound_events] * 6,
    st.builds(dict.__or__, sound_events, odd_fields),
    st.builds(dict.__or__, sound_events, listed_fields),
).filter(lambda fields: fields["event_type"] != "admission")


class _One(NamedTuple):
    """What is found out about an event; amounts of thresholds that no cost reaches are cut."""

    cost_pusd: int | None
    parts: list[tuple[str, int, int]]
    thresholds: tuple[int, int, bool] | None
    bands: tuple[int, ...]


def _single(event: dict[str, Any], book: PriceBook | None, baseline: Baseline | None) -> _One:
    rated = cost(book, event)
    limits = thresholds_of(event, book, baseline)
    parts = sorted(tuple(part) for part in (rated.parts if rated else unpriced_parts(event)))
    bands = tuple(bands_for(event, rated.cost_pusd, limits)) if rated else (0, 0, 0)
    cut = limits and (*(min(q, INT64_MAX) for q in limits[:2]), limits.packaged)
    return _One(rated and rated.cost_pusd, parts, cut, bands)


def _rows(found: Priced) -> list[_One]:
    parts: list[list[tuple[str, int, int]]] = [[] for _ in found.cost_pusd]
    assert (np.diff(found.parts.row) >= 0).all()
    for row, key, quantity, money in np.stack(found.parts, axis=1).tolist():
        parts[row].append((CLASSES[key], quantity, money))
    columns = (column.tolist() for column in found.limits)
    return [
        _One(money if known else None, sorted(of), (q50, q95, packaged) if judged else None, bands)
        for money, known, of, (q50, q95, judged, packaged, _), bands in zip(
            found.cost_pusd.tolist(), found.priced.tolist(), parts, zip(*columns, strict=True),
            [tuple(column) for column in found.bands.T.tolist()], strict=True,
        )
    ]  # fmt: skip


@settings(max_examples=200, deadline=None)  # the first one compiles
@given(
    st.lists(_kinds, min_size=1, max_size=30), st.sampled_from([None, RICH, SIMPLE]),
    st.sampled_from([None, *BASELINES]), st.data(),
)  # fmt: skip
def test_runs_are_priced_like_their_events(
    drawn: list[dict[str, Any]], book: PriceBook | None, baseline: Baseline | None, data: Any
) -> None:
    """Whether columns or single events decide, and where a cost leaves 64 bits."""
    sent = [usage(number, **fields) for number, fields in enumerate(drawn, 1)]
    events = [decode(encode("UsageEvent", event))[1] for event in sent]
    with patch.object(module, "_FEWEST", data.draw(st.sampled_from([1, 12]))):
        found, refused = priced(usage_of(sent), Prices(book), baseline, events.__getitem__)
    expected = {}
    for row, event in enumerate(events):
        try:
            expected[row] = _single(event, book, baseline)
        except OverflowError as error:
            assert str(refused[row]) == str(error)
    assert expected.keys() | refused.keys() == set(range(len(events)))
    rows = _rows(found)
    assert {row: rows[row] for row in expected} == expected
    kept = sorted(data.draw(st.sets(st.sampled_from(sorted(expected) or [0]))) - refused.keys())
    assert _rows(found.take(np.array(kept, dtype=np.int64))) == [expected[row] for row in kept]
