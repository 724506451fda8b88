"""Window rows as arrays, a run at a time, against lists of events that are counted anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, arrived
from tests.laws.oracle import HOUR, MINUTE, SECOND, Applied, Oracle, Row
from tests.laws.streams import WORLD, pieces
from tests.window_columns import Labelled, add, ints, keys_of, rows_of

from sluice.metering.causes import CAUSES
from sluice.metering.columnar import names, sparse, window_upkeep, windows
from sluice.metering.columnar.window_layout import Keys
from sluice.metering.columnar.windows import WindowTable
from sluice.metering.labels import Bands, Thresholds
from sluice.metering.parts import Part
from sluice.metering.windows import DELAY_US, FUTURE_US, WINDOW_US, WindowKey
from sluice.runtime.state_rows import changed_windows, load_windows

DAY = 24 * HOUR
LATENESS = MINUTE
ORACLE = Oracle(WORLD)


def _mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * len(others) + list(others))


_small = st.integers(-9, 99)
_eight = st.lists(_small, min_size=8, max_size=8).map(tuple)
_events = st.fixed_dictionaries(
    {
        "back": st.sampled_from([0] * 4 + [-2 * MINUTE, 1, MINUTE, 2 * MINUTE, 4 * MINUTE, DAY]),
        "cost": st.none() | st.integers(0, 200),
        "fields": st.fixed_dictionaries(
            {"event_type": _mostly("inference", "tool", "correction", "gpu_adjustment")},
            optional={
                "tenant_id": st.sampled_from(["acme", "beta", "gone1", "gone2", "gone3", "gone4"]),
                "response_model": st.sampled_from(["m", "", None]),
                "tool_name": st.sampled_from(["search", "", None]),
                "outcome": st.sampled_from(["ok", "error", "degraded"]),
                "slo_outcome": st.sampled_from(["good", "slow", None]),
                "rollback_reason": st.sampled_from(["unsafe", "good", None]),
                "risk_flags": st.lists(st.sampled_from(["burst", "loop", "good"]), max_size=3),
                "latency_us": st.none() | st.integers(0, 500),
                "gpu_us": st.sampled_from([None, 0, 7]),
                "input_tokens": st.integers(0, 50),
                "original_cost_pusd": st.none() | st.integers(-3, 200),
            },
        ),
    },
    optional={
        "parts": st.lists(
            st.builds(Part, st.sampled_from(["input", "output", "gpu_us"]), _small, _small),
            max_size=3,
        ),
        "bands": st.builds(Bands, _small, _small, _small),
        "causes": _eight,
        "tails": _eight,
        "thresholds": st.sampled_from([Thresholds(1, 2), Thresholds(1, 2, packaged=True)]),
        "task_tail": st.integers(-5, 5),
        "unprotected": st.just(True),
    },
)  # fmt: skip
_gaps = st.sampled_from([0, 1, SECOND, MINUTE, 90 * SECOND, 150 * SECOND + 1, DAY])
_versions = st.sampled_from([("b1", "n1"), ("b2", None), (None, None)])
_steps = st.one_of(
    *[st.tuples(st.just("add"), st.lists(_events, max_size=9), _versions)] * 3,
    st.tuples(st.just("refuse"), st.lists(_events, min_size=1, max_size=3)),
    *[st.tuples(st.sampled_from(["close", "publish", "evict", "sweep", "store"]))] * 3,
    st.tuples(st.just("restore"), st.lists(st.integers(0, 40), max_size=3)),
)


def _labelled(number: int, drawn: dict[str, Any], time: int) -> Labelled:
    event = arrived(number, **{"corrects_event_id": "o"} | drawn["fields"])
    event |= {"occurred_at": time - drawn["back"], "started_at": time - drawn["back"]}
    event["risk_flags"] = [*event["risk_flags"], f"new-{number // 4}"]  # texts come and go
    delta = event["event_type"] == "correction" and drawn["cost"] is not None
    return Labelled(
        event, time, drawn["cost"] - 100 if delta else drawn["cost"],
        tuple(drawn.get("parts", ())), drawn.get("bands"), drawn.get("causes"),
        drawn.get("tails", (0,) * len(CAUSES)), drawn.get("thresholds"), drawn.get("task_tail"),
        drawn.get("unprotected", False),
    )  # fmt: skip


def _key(one: Labelled) -> WindowKey:
    event = one.event
    occurred = min(event["occurred_at"], one.time + FUTURE_US)
    start = occurred // MINUTE * MINUTE
    late = one.unprotected or one.time > start + WINDOW_US + DELAY_US + LATENESS
    model = event["response_model"] or event["request_model"]
    return WindowKey(event["tenant_id"], event["project_id"], model, event["tool_name"] or "",
                     start, _date(one.time) if late else "")  # fmt: skip


def _date(time: int) -> str:
    return datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%d")


def _applied(one: Labelled, key: WindowKey, book: str | None, baseline: str | None) -> Applied:
    cost, limits = one.cost_pusd, one.thresholds
    return Applied(
        dict(one.event), one.time, key, one.event["occurred_at"] > one.time + FUTURE_US, cost,
        [tuple(part) for part in one.parts], one.bands or (cost or 0, 0, 0),
        list(one.causes or (cost or 0, *[0] * 7)), list(one.tails),
        limits and (limits.q50_pusd, limits.q95_pusd), limits is not None and limits.packaged,
        book, baseline, one.task_tail_pusd,
    )  # fmt: skip


@dataclass
class _Both:
    """The table and the lists of events that its rows must be the sums of."""

    table: WindowTable = field(default_factory=lambda: WindowTable(LATENESS))
    rows: dict[WindowKey, Row] = field(default_factory=dict)
    changed: set[WindowKey] = field(default_factory=set)
    gone: set[WindowKey] = field(default_factory=set)
    log: list[tuple[bytes, bytes]] = field(default_factory=list)

    def add(self, items: list[Labelled], book: str | None, baseline: str | None) -> None:
        found = add(self.table, *items, book=book, baseline=baseline) if items else []
        assert found == [_key(one) for one in items]
        for one, key in zip(items, found, strict=True):
            self._touched(key).events.append(_applied(one, key, book, baseline))

    def refuse(self, items: list[Labelled]) -> None:
        keys = keys_of(self.table, items)
        assert self.table.is_late(keys).tolist() == [bool(_key(one).lane) for one in items]
        asked, averted = ints(*range(len(items))), ints(*(one.time % 7 for one in items))
        self.table.refuse(self.table.open(keys), asked, averted)
        for one, requests, money in zip(items, asked.tolist(), averted.tolist(), strict=True):
            units = [{"key": "requests", "value": requests}]
            refusal = {"outcome": "rejected", "units": units, "estimated_cost_pusd": money}
            self._touched(_key(one)).refusals.append(refusal)

    def _touched(self, key: WindowKey) -> Row:
        row = self.rows.setdefault(key, Row())
        row.revision += row.closed and not row.dirty
        row.dirty = True
        self.changed.add(key)
        return row

    def close(self, time: int) -> None:
        self.table.close_due(time)
        for key, row in self.rows.items():
            if not row.closed and key.window_start + WINDOW_US + DELAY_US <= time:
                row.closed = row.dirty = True
                self.changed.add(key)

    def publish(self, time: int, version: int) -> None:
        slots = self.table.take_dirty()
        due = sorted(key for key, row in self.rows.items() if row.dirty)
        for key in due:
            self.rows[key].dirty, self.rows[key].published = False, (version, time)
            self.changed.add(key)
        found = rows_of(self.table, slots, time, version)
        assert list(found) == due
        assert found == {key: ORACLE.window_row(key, self.rows[key]) for key in due}

    def evict(self, time: int) -> None:
        over = {
            key
            for key, row in self.rows.items()
            if not row.dirty
            and key.window_start + WINDOW_US + DELAY_US + LATENESS < time
            and (not key.lane or key.lane < _date(time))
        }
        assert self.table.evict(time) == len(over)
        for key in over:
            del self.rows[key]
        self.gone |= over
        self.changed -= over

    def sweep(self, time: int, version: int) -> None:
        self.close(time)
        self.publish(time, version)
        self.evict(time)

    def store(self) -> None:
        assert self.table.is_changed() == bool(self.changed or self.gone)
        written = list(changed_windows(self.table))
        assert len({key for key, value in written if value is None}) == len(self.gone)
        assert len([key for key, value in written if value is not None]) == len(self.changed)
        self.log += [(key, value or b"") for key, value in written]
        self.changed, self.gone = set(), set()

    def restore(self, cuts: list[int]) -> None:
        """Go on with a table that knows only the log, read in pieces, of each key the newest."""
        self.store()
        self.table = WindowTable(LATENESS)
        for piece in pieces(self.log, cuts):
            load_windows(self.table, dict(piece))
        assert not self.table.is_changed()

    def agree(self) -> None:
        assert len(self.table) == len(self.rows)
        assert self.table.is_dirty() == any(row.dirty for row in self.rows.values())
        ends = [k.window_start + WINDOW_US + DELAY_US for k, r in self.rows.items() if not r.closed]
        assert self.table.next_due() == min(ends, default=None)


@contextmanager
def _little_room() -> Iterator[None]:
    """Tables that soon have to grow and to forget texts."""
    with (
        patch.object(windows, "_FIRST_ROWS", 2),
        patch.object(windows, "_FIRST_ENTRIES", 2),
        patch.object(names, "_FEW", 8),
    ):
        yield


@settings(deadline=None)  # the first one compiles
@given(st.lists(st.tuples(_gaps, _steps), max_size=14), st.integers(1, 9))
def test_rows_are_the_sums_of_their_events(drawn: list[Any], length: int) -> None:
    """Whatever is published, stored, forgotten and read again, wherever runs are cut."""
    with _little_room():
        both, time, number = _Both(), NOW, 0
        for version, (gap, (kind, *about)) in enumerate(drawn):
            time += gap
            if kind in ("add", "refuse"):
                made = []
                for fields in about[0]:
                    number += 1
                    made.append(_labelled(number, fields, time))
                if kind == "refuse":
                    both.refuse(made)
                for begin in range(0, len(made) if kind == "add" else 0, length):
                    both.add(made[begin : begin + length], *about[1])
            elif kind in ("publish", "sweep"):
                getattr(both, kind)(time, version)
            elif kind in ("close", "evict"):
                getattr(both, kind)(time)
            else:
                getattr(both, kind)(*about)
            both.agree()
        both.restore(list(range(len(both.log))))
        both.close(time + DAY)
        both.publish(time + DAY, len(drawn))
        both.evict(time + 3 * DAY)
        assert len(both.table) == 0


@settings(deadline=None)
@given(st.lists(_events, min_size=1, max_size=30), st.data())
def test_the_sums_of_all_rows_are_those_of_all_events(drawn: list[Any], data: Any) -> None:
    """However the events are divided into runs, the rows are the same, and nothing is lost."""
    made = [_labelled(n, fields, NOW) for n, fields in enumerate(drawn, 1)]
    whole, parts = WindowTable(LATENESS), WindowTable(LATENESS)
    add(whole, *made)
    for piece in pieces(made, data.draw(st.lists(st.integers(0, 30), max_size=5))):
        if piece:
            add(parts, *piece)
    assert rows_of(parts) == rows_of(whole)
    sums = rows_of(whole).values()
    assert sum(row["cost_pusd"] for row in sums) == sum(one.cost_pusd or 0 for one in made)
    assert sum(row["events"] + row["corrections"] for row in sums) == len(made)
    assert np.array_equal(whole.find(keys_of(whole, made)), whole.open(keys_of(whole, made)))


_rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), _rows), max_size=20))
def test_rows_are_found_for_as_long_as_they_are_here(changes: list[Any]) -> None:
    """Each in a slot of its own that it keeps, whatever came before it and has left."""
    rows, entries = window_upkeep.made(1), sparse.made(1)
    here: dict[tuple[int, int], int] = {}
    for opening, keys in changes:
        if opening:
            rows = window_upkeep.with_room(rows, len(keys))
            slots = window_upkeep.find(rows, _keys(keys), True).tolist()
            assert all(
                here.setdefault(key, slot) == slot for key, slot in zip(keys, slots, strict=True)
            )
        else:
            gone = {key: here.pop(key) for key in keys if key in here}
            window_upkeep.leave(rows, entries, ints(*gone.values()))
        every = [(name, start) for name in range(4) for start in range(10)]
        found = window_upkeep.find(rows, _keys(every), False).tolist()
        assert found == [here.get(key, -1) for key in every]
        assert len(set(here.values())) == len(here)


def _keys(rows: list[tuple[int, int]]) -> Keys:
    texts = [(name, 1, 1, 1, 1) for name, _ in rows]
    starts = ints(*(start * MINUTE for _, start in rows))
    return Keys(np.array(texts, dtype=np.int64).reshape(-1, 5), starts)
