"""What watchers see of events is the same from columns as from each event."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, arrived

from sluice.enforcement.watch_run import Run, run_of, run_of_usage, watched
from sluice.metering.columnar.usage import Usage
from sluice.wire.codec import encode
from sluice.wire.column_types import Coded, Numbers
from sluice.wire.columns import read_usage

events = st.lists(
    st.fixed_dictionaries(
        {"event_type": st.sampled_from(
            ["inference", "embedding", "tool", "correction", "admission", "gpu_adjustment"])},
        optional={
            "tenant_id": st.sampled_from(["a", "b"]),
            "pool": st.sampled_from([None, "", "p"]),
            "region": st.sampled_from([None, "eu"]),
            "attempt": st.integers(1, 3),
            "attempt_kind": st.sampled_from([None, "retry", "hedge"]),
            "slo_outcome": st.sampled_from([None, "good", "slow", "failed"]),
            "queue_us": st.none() | st.integers(0, 9),
            "ttft_us": st.none() | st.integers(0, 9),
            "latency_us": st.none() | st.integers(0, 9),
            "input_tokens": st.integers(0, 9),
            "output_tokens": st.integers(0, 9),
        },
    ),
    max_size=12,
)  # fmt: skip
costs = st.lists(st.none() | st.integers(0, 99), min_size=12, max_size=12)


def plain(run: Run) -> list[tuple[Any, ...]]:
    """The events of a run, one by one."""
    columns = []
    for column in run:
        if isinstance(column, Coded):
            columns.append([column.values[code] for code in column.codes.tolist()])
        elif isinstance(column, Numbers):
            known = zip(column.value.tolist(), column.known.tolist(), strict=True)
            columns.append([value if is_known else None for value, is_known in known])
        else:
            columns.append(column.tolist())
    return list(zip(*columns, strict=True))


@settings(deadline=None)  # the first call compiles
@given(found=events, costs=costs)
def test_columns_say_what_each_event_says(found: list[Any], costs: list[int | None]) -> None:
    """Every column, nulls included; events that are not watched are left out."""
    whole = [arrived(place, **{"corrects_event_id": "o"} | over) for place, over in
             enumerate(found)]  # fmt: skip
    times = [NOW + place for place in range(len(whole))]
    seen = [watched(*each) for each in zip(whole, costs, times, strict=False)]
    read = read_usage([encode("UsageEvent", event) for event in whole])
    assert read.whole.all()
    cost = [0 if value is None else value for value in costs[: len(whole)]]
    known = np.array([value is not None for value in costs[: len(whole)]], dtype=np.bool_)
    numbers = Numbers(np.array(cost, dtype=np.int64), known)
    run = run_of_usage(Usage(read.columns, len(whole)), np.array(times, dtype=np.int64), numbers)
    assert plain(run) == plain(run_of([each for each in seen if each is not None]))
