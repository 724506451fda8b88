"""Cohorts as arrays, a run at a time, against lists of events per cohort and hour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, usage
from tests.laws import oracle
from tests.laws.streams import pieces
from tests.window_columns import usage_of

from sluice.metering.cohorts import HOUR_US, CohortHour, cohort_of
from sluice.metering.columnar import cohorts
from sluice.metering.columnar.cohorts import CohortTable
from sluice.runtime.state_rows import changed_cohorts, load_cohorts
from sluice.wire.codec import decode
from sluice.wire.layout import layout

LATENESS_US = HOUR_US // 2

_events = st.fixed_dictionaries(
    {
        "event_type": st.sampled_from(["inference"] * 5 + ["embedding", "tool", "gpu_adjustment"]),
        "request_model": st.sampled_from(["m", "n"]),
        "response_model": st.sampled_from([None, "m", ""]),
        "operation_name": st.sampled_from(["chat", "embed"]),
        "tool_name": st.sampled_from([None, "", "search"]),
        "input_tokens": st.sampled_from([0, 1, 1024, 1025, 300_000]),
        "outcome": st.sampled_from(["ok", "error", "rejected"]),
        "back": st.sampled_from([0, 0, -HOUR_US, 1, HOUR_US, 2 * HOUR_US]),
        "cost": st.integers(0, 400),
        "counted": st.sampled_from([True, True, False]),
    }
)
_gaps = st.sampled_from([0, 1, LATENESS_US, HOUR_US, HOUR_US + LATENESS_US + 1])
_steps = st.one_of(
    *[st.tuples(st.just("add"), st.lists(_events, min_size=1, max_size=9))] * 2,
    st.tuples(st.sampled_from(["publish", "evict"])),
    st.tuples(st.sampled_from(["publish", "evict"])),
    st.tuples(st.just("restore"), st.lists(st.integers(0, 30), max_size=3)),
)


@dataclass
class _Both:
    """The table, and what each of its hours has counted: costs and input lengths."""

    table: CohortTable = field(default_factory=lambda: CohortTable(LATENESS_US))
    hours: dict[CohortHour, list[tuple[int, int]]] = field(default_factory=dict)
    dirty: set[CohortHour] = field(default_factory=set)
    log: list[tuple[bytes, bytes]] = field(default_factory=list)

    def add(self, drawn: list[dict[str, Any]], time: int) -> None:
        events = [
            usage(occurred_at=time - one["back"], started_at=time - one["back"],
                  **{k: v for k, v in one.items() if k not in ("back", "cost", "counted")})
            for one in drawn
        ]  # fmt: skip
        cost = np.array([one["cost"] for one in drawn])
        counted = np.array([one["counted"] for one in drawn])
        self.table.add(usage_of(events), cost, counted, np.full(len(drawn), time))
        for event, one in zip(events, drawn, strict=True):
            hour = min(event["occurred_at"], time) // HOUR_US * HOUR_US
            ran = event["event_type"] != "gpu_adjustment" and event["outcome"] != "rejected"
            if one["counted"] and ran and time <= hour + HOUR_US + LATENESS_US:
                key = CohortHour(cohort_of({"response_model": None, **event}), hour)
                self.hours.setdefault(key, []).append((one["cost"], event["input_tokens"]))
                self.dirty.add(key)

    def publish(self, time: int) -> None:
        keys = self.table.take_dirty()
        assert keys == sorted(self.dirty)
        self.compare(keys, time)
        self.dirty.clear()
        assert not self.table.is_dirty()

    def compare(self, keys: list[CohortHour], time: int) -> None:
        values = layout("CohortRow").write(self.table.columns(keys, 3, time, 7), len(keys))
        assert [decode(value)[1] for value in values] == [
            {
                **key.cohort._asdict(), "hour_start": key.hour_start, "source_partition": 3,
                "events": len(self.hours[key]), "watermark": time, "version": 7,
                "cost_histogram": oracle.histogram((c, 1, c) for c, _ in self.hours[key]),
                "input_histogram": oracle.histogram((t, 1, 0) for _, t in self.hours[key]),
            }
            for key in keys
        ]  # fmt: skip

    def evict(self, time: int) -> None:
        self.table.evict(time)
        for key in list(self.hours):
            if key not in self.dirty and time > key.hour_start + HOUR_US + LATENESS_US:
                del self.hours[key]

    def restore(self, cuts: list[int]) -> None:
        """Go on with a table that knows only the log, read in pieces, of each key the newest."""
        self.log += [(key, value or b"") for key, value in changed_cohorts(self.table)]
        assert not self.table.is_changed()
        self.table = CohortTable(LATENESS_US)
        for piece in pieces(self.log, cuts):
            load_cohorts(self.table, dict(piece))
        assert not self.table.is_changed()


@settings(deadline=None)  # the first one compiles
@given(st.lists(st.tuples(_gaps, _steps), max_size=14))
def test_hours_are_the_sums_of_their_events(drawn: list[Any]) -> None:
    """Whatever is published, stored, forgotten and read again."""
    with patch.object(cohorts, "_FIRST_ROWS", 2), patch.object(cohorts, "_FIRST_ENTRIES", 2):
        both, time = _Both(), NOW
        for gap, (kind, *about) in drawn:
            time += gap
            if kind == "restore":
                both.restore(*about)
            else:
                getattr(both, kind)(*about, time)
            assert both.table.hours() == sorted(both.hours)
            assert both.table.is_dirty() == bool(both.dirty)
        both.restore(list(range(len(both.log))))
        both.compare(both.table.hours(), time)
