"""Look-back sums equal the sums over all events that a list remembers."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.enforcement.rings import BUCKETS, MOST, Rings, StoredRow
from sluice.enforcement.signals.burn import Span

WINDOWS = (Span("short", 12_000), Span("long", 120_000))
MEASURES = ("cost", "requests")
SCOPES = ("a", "b", "c")

events = st.lists(
    st.tuples(st.sampled_from(SCOPES), st.integers(0, 30_000), st.integers(0, 10**12)),
    max_size=60,
)


def whole(found: list[tuple[str, int, int]], scope: str, now: int) -> list[list[int]]:
    """Sums of a scope by window, from all events with their times."""
    sums = []
    for span in WINDOWS:
        width = span.width_us // BUCKETS
        inside = [c for s, t, c in found if s == scope and t // width > now // width - BUCKETS]
        sums.append([sum(inside), len(inside)])
    return sums


def add(rings: Rings, part: list[tuple[str, int, int]]) -> None:
    """Add events to their scopes at once."""
    rows = np.array([rings.row((scope,), time) for scope, time, _ in part], dtype=np.int64)
    times = np.array([time for _, time, _ in part], dtype=np.int64)
    rings.add(rows, times, np.array([[cost, 1] for *_, cost in part], dtype=np.int64))


@settings(deadline=None)  # the first call compiles
@given(steps=events, later=st.integers(0, 150_000), cut=st.integers(0, 60), stored=st.booleans())
def test_totals_are_the_sums_of_what_lies_in_the_window(
    steps: list[tuple[str, int, int]], later: int, cut: int, stored: bool
) -> None:
    """However the events are cut into parts, and whether or not they were stored in between."""
    time, found = 0, []
    for scope, gap, cost in steps:
        time += gap
        found.append((scope, time, cost))
    rings = Rings(WINDOWS, MEASURES)
    for part in (found[:cut], found[cut:]):
        if part:
            add(rings, part)
        if stored:
            rings = restored(rings)
    now = time + later
    for (scope,) in sorted(rings.rows):
        rows = np.array([rings.rows[scope,]], dtype=np.int64)
        assert rings.totals(rows, now)[0].tolist() == whole(found, scope, now)


def restored(rings: Rings) -> Rings:
    """The same sums from what was stored of them."""
    again = Rings(WINDOWS, MEASURES)
    for scope in rings.take_changed():
        value = msgspec.msgpack.encode(rings.stored(scope))
        again.put(scope, msgspec.msgpack.decode(value, type=StoredRow))
    return again


def test_a_silent_scope_can_go_and_leaves_nothing_behind() -> None:
    """It is idle once its longest window is empty; its row serves another scope from nothing."""
    rings = Rings(WINDOWS, MEASURES)
    add(rings, [("a", 5, 7)])
    assert rings.idle(120_005) == []
    assert rings.idle(120_006) == [("a",)]
    rings.drop(("a",))
    row = rings.row(("b",), 120_006)
    assert not rings.totals(np.array([row], dtype=np.int64), 120_006).any()


def test_many_scopes_keep_their_sums_apart() -> None:
    """More scopes than the first memory holds."""
    rings = Rings(WINDOWS, MEASURES)
    add(rings, [(f"s{n}", 1, n) for n in range(1_000)])
    rows = np.array([rings.rows[f"s{n}",] for n in range(1_000)], dtype=np.int64)
    assert rings.totals(rows, 1)[:, 0, 0].tolist() == list(range(1_000))


def test_a_sum_beyond_64_bits_stands_still() -> None:
    """Four times the largest cost is as much as a bucket holds, not less than nothing."""
    rings = Rings(WINDOWS, MEASURES)
    add(rings, [("a", 1, 2**63 - 1)] * 4)
    rows = np.array([rings.rows["a",]], dtype=np.int64)
    assert rings.totals(rows, 1)[0].tolist() == [[MOST, 4], [MOST, 4]]
