"""Deduplication against an oracle that remembers every number."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, usage
from tests.window_columns import usage_of

from sluice.metering.columnar import dedupe as columnar
from sluice.metering.dedupe import MAX_MISSING_RANGES, Mark, Seen, missing_count, observe
from sluice.metering.sources import Sources, source_key

HOUR_US = 3_600_000_000

numbers = st.lists(st.integers(1, 60), max_size=200)


@given(numbers)
def test_every_number_is_applied_exactly_once(sequence: list[int]) -> None:
    """Whatever arrives in whatever order, a number is applied at its first arrival only."""
    mark, seen = Mark(), set[int]()
    for number in sequence:
        mark, verdict = observe(mark, number)
        assert (verdict is Seen.DUPLICATE) == (number in seen)
        seen.add(number)
    assert missing_count(mark) == max(seen, default=0) - len(seen)


@given(st.lists(st.integers(1, 10_000), max_size=400))
def test_the_mark_stays_bounded_and_never_applies_twice(sequence: list[int]) -> None:
    """With more holes than a mark holds, numbers may be given up as lost but none counts twice."""
    mark, applied = Mark(), set[int]()
    for number in sequence:
        mark, verdict = observe(mark, number)
        if verdict is not Seen.DUPLICATE:
            assert number not in applied
            applied.add(number)
    assert len(mark.missing) <= MAX_MISSING_RANGES
    assert mark.highest == len(applied) + missing_count(mark) + mark.lost


def test_a_recovered_number_is_told_from_a_new_one() -> None:
    """A number that fills a hole is named recovered; the one beyond the highest is new."""
    mark, _ = observe(Mark(), 1)
    mark, jumped = observe(mark, 3)
    mark, filled = observe(mark, 2)
    assert (jumped, filled) == (Seen.NEW, Seen.RECOVERED)
    assert mark == Mark(3)


def test_an_overflowing_range_counts_as_lost() -> None:
    """The oldest of 65 holes is given up with all its numbers."""
    mark = Mark()
    for number in range(3, 3 * (MAX_MISSING_RANGES + 2), 3):
        mark, _ = observe(mark, number)
    assert mark.lost == 2
    assert observe(mark, 1)[1] is Seen.DUPLICATE


def _sent(drawn: dict[str, Any]) -> dict[str, Any]:
    number = drawn.pop("number")
    return usage(number or 1, **drawn | {"source_seq": number, "started_at": drawn["occurred_at"]})


_sent_events = st.fixed_dictionaries(
    {
        "number": st.sampled_from([*range(1, 12), None, None]),
        "source": st.sampled_from(["gw", "gw", "other"]),
        "source_epoch": st.sampled_from(["e1", "e1", "e2"]),
        "tenant_id": st.sampled_from(["acme", "acme", "beta"]),
        "event_id": st.sampled_from(["x", "y"]),
        "occurred_at": st.sampled_from([NOW, NOW - 1, NOW + 5]),
    }
).map(_sent)
_follow_on = st.tuples(st.integers(1, 30), st.integers(1, 30)).map(
    lambda ends: [usage(n) for n in range(ends[0], sum(ends))]
)
_runs = st.lists(st.one_of(st.lists(_sent_events, min_size=1, max_size=12), _follow_on), max_size=6)


@settings(deadline=None)  # the first one compiles
@given(_runs, st.data())
def test_runs_are_seen_like_their_events(runs: list[list[dict[str, Any]]], data: Any) -> None:
    """Marks, what is remembered, and which events are new are as of one event after the other."""
    together, single = Sources(HOUR_US), Sources(HOUR_US)
    time = NOW
    for events in runs:
        times = [time + place for place in range(len(events))]
        time += data.draw(st.sampled_from([1, 1_000, HOUR_US]))
        asked = [True] * len(events)
        if data.draw(st.integers(0, 3)) == 0:
            asked = [data.draw(st.booleans()) for _ in events]
        keys = [event["tenant_id"].encode() for event in events]
        found = columnar.observe(
            together, usage_of(events), keys, np.array(times), np.array(asked, np.bool_)
        )
        lost = sum(sums.lost for sums in single.rows.values())
        seen = [
            single.observe(event, key, at) if is_asked else None
            for event, key, at, is_asked in zip(events, keys, times, asked, strict=True)
        ]
        assert found.new.tolist() == [s in (Seen.NEW, Seen.RECOVERED) for s in seen]
        assert found.recovered == seen.count(Seen.RECOVERED)
        assert found.missed == sum(sums.lost for sums in single.rows.values()) - lost
        changed = zip(events, keys, asked, strict=True)
        assert found.sources == {source_key(e, key) for e, key, ask in changed if ask}
        assert together.rows == single.rows
        assert together.unnumbered == single.unnumbered
        assert set(found.unnumbered) <= together.unnumbered.keys()
