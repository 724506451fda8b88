"""Laws of the columnar sink: it stores the rows of the one-by-one conversion, field by field."""

from __future__ import annotations

from itertools import count, pairwise, product
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, TOPICS, FakeRecord, FakeReferences, activate, record, usage
from tests.laws.rich_usage import RICH, SIMPLE, any_events
from tests.laws.streams import BASELINES, MINUTE, build, store, streams
from tests.laws.test_columns_laws import damaged, damages

from sluice.metering.prices import PriceBook
from sluice.runtime import storing_columns
from sluice.runtime.storing import Position, Storing
from sluice.runtime.storing_columns import ColumnStoring, Taken
from sluice.wire.codec import encode

_steps = st.one_of(
    any_events, any_events, any_events,
    st.sampled_from(["rich", "simple", "no book", "first", "second", "none", "garbage", "tick"]),
    st.sampled_from(["key", "keyless", "late"]), damages,
)  # fmt: skip


def one_by_one(made: list[FakeRecord], position: Position) -> dict[str, list[dict[str, Any]]]:
    """Rows of the conversion of single records."""
    rows, done = Storing(TOPICS, _references(), 3).rows(TOPICS.usage, 5, made, position)
    assert done == len(made)
    return {table: sorted(found, key=_order) for table, found in rows.items() if found}


def in_columns(made: list[FakeRecord], position: Position) -> dict[str, list[dict[str, Any]]]:
    """Rows of the columnar conversion."""
    taken, done = ColumnStoring(TOPICS, _references(), 3).take(TOPICS.usage, 5, made, position)
    assert done == len(made)
    return unpacked(taken)


def unpacked(taken: Taken) -> dict[str, list[dict[str, Any]]]:
    """Columns and rows as rows, in the order of offsets."""
    found = {table: list(rows) for table, rows in taken.rows.items()}
    for table, pieces in taken.columns.items():
        for piece in pieces:
            names = list(piece)
            values = zip(*(piece[name].to_pylist() for name in names), strict=True)
            found.setdefault(table, []).extend(dict(zip(names, row, strict=True)) for row in values)
    return {table: sorted(rows, key=_order) for table, rows in found.items() if rows}


def _order(row: dict[str, Any]) -> int:
    return int(row.get("source_offset", 0))


def _references() -> FakeReferences:
    references = store()
    for book in (RICH, SIMPLE):
        references.put(book)
    return references


def _built(steps: list[Any]) -> list[FakeRecord]:
    """Records from drawn steps, with a book in force from the beginning."""
    made = [activate(0, ("price_book", "rich", RICH.version))]
    names = {"rich": ("price_book", "rich", RICH.version), "no book": ("price_book", "rich", ""),
             "simple": ("price_book", "simple", SIMPLE.version),
             "first": ("baseline", "default", BASELINES[0].version),
             "second": ("baseline", "default", BASELINES[1].version),
             "none": ("baseline", "default", "")}  # fmt: skip
    for offset, step in zip(count(1), steps, strict=False):
        if isinstance(step, dict):
            made.append(record(offset, usage(offset, **step)))
        elif isinstance(step, tuple):
            value = encode("UsageEvent", usage(offset, request_model="plain", provider_name="p"))
            made.append(FakeRecord(offset, NOW // 1000, b"acme", damaged(value, step, value)))
        elif step in names:
            made.append(activate(offset, names[step]))
        elif step == "garbage":
            made.append(record(offset, b"garbage"))
        elif step == "tick":
            made.append(FakeRecord(offset, NOW // 1000 + 60_000, None, encode("Tick", {})))
        elif step == "late":
            made.append(record(offset, usage(offset), at=NOW + 36 * 86_400_000_000))
        else:
            made.append(record(offset, usage(offset), key="b"))
            made[-1].key = None if step == "keyless" else b"\xff"
    return made


@pytest.fixture(autouse=True)
def columns_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the shortest run goes through the columns."""
    monkeypatch.setattr(storing_columns, "_FEWEST", 1)


@settings(max_examples=400, deadline=None)
@given(st.lists(_steps, min_size=1, max_size=40))
def test_columns_are_the_rows_of_single_records(steps: list[Any]) -> None:
    """Prices, contracts, tiers, tools, refusals, damage: same rows and the same position."""
    made = _built(steps)
    slow, fast = Position(0), Position(0)
    assert in_columns(made, fast) == one_by_one(made, slow)
    assert fast == slow


@settings(max_examples=100, deadline=None)
@given(streams, st.lists(st.integers(1, 40), max_size=3))
def test_streams_are_stored_alike_however_they_are_cut(drawn: list[Any], cuts: list[int]) -> None:
    """The streams of the meter's laws, in chunks of any size, give the rows of single records."""
    made = build(drawn).records
    slow, fast = Position(0), Position(0)
    expected = one_by_one(made, slow)
    found: dict[str, list[dict[str, Any]]] = {}
    borders = sorted({0, len(made), *(min(cut, len(made)) for cut in cuts)})
    for first, last in pairwise(borders):
        for table, rows in in_columns(made[first:last], fast).items():
            found.setdefault(table, []).extend(rows)
    assert found == expected
    assert fast == slow


def test_usual_events_need_no_rows_of_their_own() -> None:
    """Plain requests, tool calls and refusals go as columns, in the types of the wire."""
    kinds: list[dict[str, Any]] = [{}, {"response_model": "plain", "tenant_id": "beta"},
             {"event_type": "tool", "tool_name": "search", "input_tokens": 0, "output_tokens": 0},
             {"event_type": "admission", "outcome": "rejected"}]  # fmt: skip
    made = [
        record(n, usage(n, provider_name="p", **{"request_model": "plain", **kinds[n % 4]}))
        for n in range(1, 200)
    ]
    position = Position(0, price_book=("rich", RICH.version))
    taken, _ = ColumnStoring(TOPICS, _references(), 0).take(TOPICS.usage, 0, made, position)
    assert not any(taken.rows.values())
    (piece,) = taken.columns["usage_events"]
    assert np.diff(piece["source_offset"].to_numpy()).min() == 1
    assert taken.size == len(made) == len(piece["cost_pusd"])


MODELS = ("plain", "bare", "deaf", "fee", "tiers", "units", "unit", "large", "shared", "agent", "x")
TENANTS = ("acme", "beta", "gamma", "delta")
HOUR = 3_600_000_000
BORDERS = (-1, 0, 1, 40 * MINUTE - 1, 40 * MINUTE, 40 * MINUTE + 1, HOUR - 1, HOUR)


def _requests() -> list[dict[str, Any]]:
    """Requests on both sides of every border of length, price, service tier and outcome."""
    lengths = [
        {"request_model": model, "tenant_id": tenant, "input_tokens": tokens, "outcome": outcome}
        for model, tenant, tokens, outcome in product(
            MODELS, TENANTS, (0, 1000, 1001, 1024, 1025), ("ok", "throttled"))
    ]  # fmt: skip
    times = [
        {"request_model": model, "tenant_id": tenant, "occurred_at": NOW + shift}
        for model, tenant, shift in product(MODELS, TENANTS, BORDERS)
    ]
    tiers = [
        {"request_model": model, "service_tier": tier, "cache_read_input_tokens": read}
        for model, tier, read in product(MODELS, (None, "batch", "Batches", "flex"), (0, 3))
    ]
    room = [
        {"request_model": "large", "input_tokens": tokens, "output_tokens": output}
        for tokens, output in product((3, 4, 5, 7, 8, 9, 16, 17, 32), (0, 100))
    ]
    return [*lengths, *times, *tiers, *room]


def _calls() -> list[dict[str, Any]]:
    """Calls of every tool, that ran or did not, at every price."""
    return [
        {"event_type": "tool", "request_model": model, "tenant_id": tenant, "tool_name": tool,
         "tool_server": server, "outcome": outcome, "occurred_at": NOW + shift,
         "input_tokens": 0, "output_tokens": 0}
        for model, tenant, tool, server, outcome, shift in product(
            ("plain", "agent"), ("beta", "delta"), (None, "search", "gpu", "other"),
            (None, "mcp"), ("ok", "throttled"), BORDERS)
    ]  # fmt: skip


@pytest.mark.parametrize("book", [RICH, SIMPLE])
@pytest.mark.parametrize("baseline", ["", BASELINES[1].version])
def test_every_border_is_on_the_same_side(book: PriceBook, baseline: str) -> None:
    """One token or one µs more changes the price for both conversions or for none."""
    fields = {"started_at": NOW - MINUTE, "provider_name": "p", "output_tokens": 7}
    made = [
        record(n, usage(n, **(fields | over))) for n, over in enumerate([*_requests(), *_calls()])
    ]
    position = Position(0, price_book=(book.book_id, book.version),
                        baseline=("default", baseline) if baseline else None)  # fmt: skip
    expected = one_by_one(made, msgspec.structs.replace(position))
    assert in_columns(made, position) == expected
