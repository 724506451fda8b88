"""Watchers: one event at a time, in runs, and across restarts they say the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.watching import SECOND_US, START, Books, published, request, watchers

from sluice.enforcement.ladder_decisions import Published
from sluice.enforcement.watch import Watchers
from sluice.enforcement.watch_run import run_of, watched
from sluice.money import pusd

LIMIT = pusd("10")
bursts = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 7, 40]),  # seconds since the event before
        st.integers(1, 12),  # events alike
        st.fixed_dictionaries({
            "tenant_id": st.sampled_from(["a", "b", "c"]),
            "pool": st.sampled_from([None, "p", "q"]),
            "region": st.sampled_from([None, "eu"]),
            "attempt": st.integers(1, 2),
            "slo_outcome": st.sampled_from([None, "good", "failed"]),
            "queue_us": st.sampled_from([None, 10_000, 900_000]),
            "ttft_us": st.sampled_from([None, 50_000, 9_000_000]),
            "event_type": st.sampled_from(["inference", "tool", "correction"]),
            "output_tokens": st.sampled_from([1, 5_000]),
        }),
        st.sampled_from([None, 0, pusd("0.0001"), pusd("0.3")]),
    ),
    max_size=25,
)  # fmt: skip
Events = list[tuple[dict[str, Any], int | None, int]]


def events_of(found: Any) -> Events:
    """Events with their cost and broker time."""
    time, events = START, []
    for gap, count, over, cost_pusd in found:
        time += gap * SECOND_US
        events += [(request(**over), cost_pusd, time)] * count
    return events


def books() -> Books:
    """Half of the budget is spent."""
    return Books(LIMIT, LIMIT // 2)


def stored(held: Watchers, rows: dict[bytes, bytes]) -> None:
    """Write the rows that changed to what a changelog would hold."""
    for key, value in held.take_changes():
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


def one_by_one(events: Events) -> tuple[list[Published], dict[bytes, bytes]]:
    """Every event for itself."""
    held, rows, messages = watchers(books()), {}, []
    for offset, (event, cost_pusd, time) in enumerate(events):
        messages += published(held.at(time), time, offset)
        held.observe(event, cost_pusd, time)
    stored(held, rows)
    return messages, rows


def in_runs(
    events: Events, cuts: list[int], *, restart: bool
) -> tuple[list[Published], dict[bytes, bytes]]:
    """Runs of columns that begin at these events; the state may be stored and read at each cut."""
    held, rows, messages = watchers(books()), {}, []
    borders = sorted({0, *(cut for cut in cuts if cut < len(events)), len(events)})
    for begin, end in pairwise(borders):
        seen = [(place, watched(*each)) for place, each in enumerate(events[begin:end], begin)]
        kept = [(place, found) for place, found in seen if found is not None]
        for place, change in held.observe_run(run_of([found for _, found in kept])):
            offset = kept[place][0]
            messages += published([change], events[offset][2], offset)
        if restart:
            stored(held, rows)
            held = watchers(books())
            for key, value in rows.items():
                held.load(key, value)
    stored(held, rows)
    return messages, rows


slow = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(found=bursts, cuts=st.lists(st.integers(0, 200), max_size=5), restart=st.booleans())
def test_runs_and_restarts_change_nothing(found: Any, cuts: list[int], restart: bool) -> None:
    """The same decisions, at the same events, with the same bytes in the changelog."""
    # An event that is not watched is not in a run, so it cannot be the one that crosses a border.
    events = [e for e in events_of(found) if e[0]["event_type"] != "correction"]
    one = one_by_one(events)
    assert in_runs(events, cuts, restart=restart) == one


def test_the_courses_above_do_lead_to_decisions() -> None:
    """A law about decisions has to see some: of burn, of retries, of a noisy neighbour."""
    over = {"tenant_id": "a", "attempt": 2, "pool": "p", "queue_us": 10_000}
    course = [(2, 5, over, pusd("0.3"))] * 20
    messages, _ = one_by_one(events_of(course))
    codes = {m.record["reason_code"] for m in messages if m.record is not None}
    assert {"BUDGET_BURN_RATE", "BUDGET_FORECAST", "RETRY_STORM"} <= codes
