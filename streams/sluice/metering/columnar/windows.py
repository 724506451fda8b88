"""All window rows of one partition that can still change, as arrays; `windows` says the rules.

A row is known by its slot, a place in the arrays, for as long as it is here. Callers ask for slots,
add to them, and are told which slots to publish and to store.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from sluice.metering.columnar import sparse, window_adding, window_upkeep
from sluice.metering.columnar.names import EMPTY, NONE, Names
from sluice.metering.columnar.sparse import Entries
from sluice.metering.columnar.usage import Usage
from sluice.metering.columnar.window_layout import (
    AVERTED,
    BASELINE,
    BOOK,
    CHANGED,
    CLOSED,
    DIRTY,
    KEY_NAMES,
    LABEL_STEP,
    LIVE,
    REFUSED,
    ROWS_LIVE,
    ROWS_USED,
    SUMS,
    Added,
    Keys,
    Rows,
)
from sluice.metering.quantities import MEASURED, TOKENS
from sluice.metering.windows import (
    DELAY_US,
    FUTURE_US,
    MAX_LABELS,
    OTHER,
    WINDOW_US,
    WindowKey,
)
from sluice.money import checked_sum
from sluice.wire.column_types import Bools, Coded, Ints

_FIRST_ROWS, _FIRST_ENTRIES = 1024, 8192
_DAY_US = 86_400_000_000
# Entries that one event can need beside its parts and flags: causes, buckets, labels.
_ENTRIES_PER_EVENT = 8 + 3 + 3

_TENANT, _LANE = KEY_NAMES.index("tenant_id"), KEY_NAMES.index("lane")


class WindowTable:
    """Rows by slot; remembers which are to be published and which to be stored."""

    def __init__(self, lateness_us: int) -> None:
        self.lateness_us = lateness_us
        self.names = Names()
        self.rows: Rows = window_upkeep.made(_FIRST_ROWS)
        self.entries: Entries = sparse.made(_FIRST_ENTRIES)
        self._gone: list[WindowKey] = []

    def __len__(self) -> int:
        return int(self.rows.counts[ROWS_LIVE])

    # ---- adding

    def keys_of(self, usage: Usage, time: Ints, unprotected: Bools) -> Keys:
        """The rows that events arriving at broker times `time` (µs) belong to.

        `unprotected` usage, whose duplicates cannot be told any more, always goes to a lane.
        """
        occurred = np.minimum(usage.number("occurred_at").value, time + FUTURE_US)
        start = occurred - occurred % WINDOW_US
        late = unprotected | (time > start + WINDOW_US + DELAY_US + self.lateness_us)
        texts = [self.names.numbers(usage.coded(name)) for name in KEY_NAMES[:2]]
        tool = usage.coded("tool_name")
        tools = self.names.numbers(Coded(tool.codes, [name or "" for name in tool.values]))
        names = np.stack(
            [*texts, self.names.numbers(usage.models()), tools, self._lanes(late, time)], axis=1
        )
        return Keys(names, start)

    def _lanes(self, late: Bools, time: Ints) -> Ints:
        lanes = np.full(len(late), EMPTY, dtype=np.int64)
        if late.any():
            days = time[late] // _DAY_US
            for day in np.unique(days).tolist():
                lanes[late & (time // _DAY_US == day)] = self.names.number(_date(day * _DAY_US))
        return lanes

    def is_late(self, keys: Keys) -> Bools:
        """Which of the rows are in a lane."""
        late: Bools = keys.names[:, _LANE] != EMPTY
        return late

    def find(self, keys: Keys) -> Ints:
        """Slots of rows, -1 where there is none."""
        return window_upkeep.find(self.rows, keys, False)

    def open(self, keys: Keys) -> Ints:
        """Slots of rows, which are made where there are none."""
        self.rows = window_upkeep.with_room(self.rows, len(keys.start))
        return window_upkeep.find(self.rows, keys, True)

    def most(self, slots: Ints) -> float:
        """The largest amount in any of these rows; -1 stands for a row that is not there."""
        return window_upkeep.most(self.rows, slots)

    def refusals(self, slot: int) -> tuple[int, int]:
        """Refused requests and averted money of a row; -1 stands for one that is not there."""
        if slot < 0:
            return 0, 0
        return int(self.rows.rare[slot, REFUSED]), int(self.rows.rare[slot, AVERTED])

    def check(self, run: Added, task_tail_pusd: int) -> None:
        """Raise OverflowError where a row cannot take the run's only event; slot -1: a new row.

        `task_tail_pusd` is the most that it can move the tail of its task.
        """
        slot = int(run.slot[0])
        have = dict.fromkeys(SUMS, 0)
        if slot >= 0:
            have = dict(zip(SUMS, self.amounts(run.slot)[0].tolist(), strict=True))
        counted = ((TOKENS, run.tokens), (MEASURED, run.measured))
        for names, amounts in counted:
            for name, amount in zip(names, amounts[:, 0].tolist(), strict=True):
                checked_sum(have[name], amount)
        classes = {} if slot < 0 else self._quantities(slot)
        for key, quantity in zip(run.part_key.tolist(), run.part_quantity.tolist(), strict=True):
            checked_sum(classes.get(key, 0), quantity)
        checked_sum(have["gross_pusd"], _gross(run))
        checked_sum(abs(have["task_tail_pusd"]), task_tail_pusd)

    def amounts(self, slots: Ints) -> Ints:
        """Sums of rows, in the order of SUMS."""
        return np.concatenate([self.rows.sums[slots], self.rows.rare[slots]], axis=1)

    def _quantities(self, slot: int) -> dict[int, int]:
        found = sparse.collect(self.rows.classes, np.array([slot]), self.entries)
        return dict(zip(found.key.tolist(), found.first.tolist(), strict=True))

    def add(self, run: Added, book: str | None, baseline: str | None) -> None:
        """Add labelled events to their rows; no sum leaves 64 bits, see `most`."""
        events, listed = len(run.slot), len(run.part_key) + len(run.flag)
        self.entries = sparse.with_room(self.entries, _ENTRIES_PER_EVENT * events + listed)
        versions = self.names.number(book), self.names.number(baseline)
        window_adding.add(self.rows, self.entries, run, *versions, self.names.number(OTHER))

    def refuse(self, slots: Ints, requests: Ints, averted_pusd: Ints) -> None:
        """Add reports of refused requests; no sum leaves 64 bits."""
        window_adding.refuse(self.rows, slots, requests, averted_pusd)

    # ---- time

    def close_due(self, time: int) -> None:
        """Rows whose window closed by `time` are to be published once more."""
        due = self._where(self.rows.start + (WINDOW_US + DELAY_US) <= time, LIVE, CLOSED)
        self.rows.state[due] |= CLOSED | DIRTY | CHANGED

    def next_due(self) -> int | None:
        """Broker time at which a row has to be closed, or None where all are."""
        open_ = self._where(None, LIVE, CLOSED)
        if not len(open_):
            return None
        return int(self.rows.start[open_].min()) + WINDOW_US + DELAY_US

    def is_dirty(self) -> bool:
        """Whether a row is to be published."""
        return bool((self.rows.state[: self._used()] & DIRTY).any())

    def take_dirty(self, is_due: Callable[[str], bool] | None = None) -> Ints:
        """Slots to publish now, in the order of their keys; they count as published afterwards.

        Those of the tenants for which `is_due` says so, or of all.
        """
        slots = self._where(None, LIVE | DIRTY, 0)
        if is_due is not None:
            tenants, of = np.unique(self.rows.names[slots, _TENANT], return_inverse=True)
            due = [is_due(self.names.texts[tenant] or "") for tenant in tenants.tolist()]
            slots = slots[np.array(due, dtype=np.bool_)[of]]
        slots = self.ordered(slots)
        self.rows.state[slots] = (self.rows.state[slots] & ~np.uint8(DIRTY)) | CHANGED
        return slots

    def evict(self, time: int) -> int:
        """Remove published rows that nothing can change any more; how many they were."""
        final = self.rows.start + (WINDOW_US + DELAY_US + self.lateness_us) < time
        slots = self._where(final, LIVE, DIRTY)
        lanes = self.rows.names[slots, _LANE]
        today = _date(time)
        over = np.array([not (text or "") or (text or "") < today for text in self.names.texts])
        slots = slots[over[lanes]] if len(slots) else slots
        if len(slots):
            self._gone += self.keys(slots)
            window_upkeep.leave(self.rows, self.entries, slots)
        self._forget_names()
        return len(slots)

    # ---- storing

    def take_changed(self) -> tuple[Ints, list[WindowKey]]:
        """Slots that changed since the last call, and keys of rows that are gone."""
        slots = self._where(None, LIVE | CHANGED, 0)
        self.rows.state[slots] &= ~np.uint8(CHANGED)
        gone, self._gone = self._gone, []
        return slots, gone

    def is_changed(self) -> bool:
        """Whether `take_changed` would give anything."""
        return bool(self._gone) or bool((self.rows.state[: self._used()] & CHANGED).any())

    def slots(self) -> Ints:
        """Slots of all rows, in the order of their keys."""
        return self.ordered(self._where(None, LIVE, 0))

    def keys(self, slots: Ints) -> list[WindowKey]:
        """Identities of rows."""
        texts = [text or "" for text in self.names.texts]
        tenant, project, model, tool, lane = self.rows.names[slots, : len(KEY_NAMES)].T.tolist()
        starts = self.rows.start[slots].tolist()
        return [
            WindowKey(texts[a], texts[b], texts[c], texts[d], start, texts[e])
            for a, b, c, d, start, e in zip(tenant, project, model, tool, starts, lane, strict=True)
        ]

    def ordered(self, slots: Ints) -> Ints:
        """Slots in the order of the rows' keys."""
        rank = self.names.ranks()
        tenant, project, model, tool, lane = rank[self.rows.names[slots, : len(KEY_NAMES)]].T
        order = np.lexsort((lane, self.rows.start[slots], tool, model, project, tenant))
        return slots[order]

    # ---- inside

    def _used(self) -> int:
        return int(self.rows.counts[ROWS_USED])

    def _where(self, holds: Bools | None, bits: int, without: int) -> Ints:
        """Slots with all of some bits and none of others, of those where something holds."""
        used = self._used()
        chosen = (self.rows.state[:used] & np.uint8(bits | without)) == bits
        return np.flatnonzero(chosen if holds is None else chosen & holds[:used])

    def _forget_names(self) -> None:
        if not self.names.is_crowded((len(KEY_NAMES) + 2 + MAX_LABELS) * len(self)):
            return
        live = self._where(None, LIVE, 0)
        table = self.rows.names[live]
        labels = sparse.collect(self.rows.labels, live, self.entries).key
        used = np.zeros(len(self.names), dtype=np.bool_)
        used[table[table >= 0]] = used[labels % LABEL_STEP] = True
        window_upkeep.rename(self.rows, self.entries, live, self.names.keep(used))


def versions_of(table: WindowTable, slots: Ints) -> tuple[Coded, Coded]:
    """Price book and baseline that rows name."""
    found = np.maximum(table.rows.names[slots].astype(np.int64), NONE)
    book, baseline = found[:, BOOK], found[:, BASELINE]
    return table.names.coded(book), table.names.coded(baseline)


def _gross(run: Added) -> int:
    """A bound of every amount of money that the only event moves; see `window_adding`."""
    cost = abs(int(run.cost_pusd[0]))
    moved = 2 * abs(int(run.original_pusd[0])) + cost if run.correction[0] else cost
    classes: int = sum(abs(part) for part in run.part_cost.tolist())
    return max(classes, moved)


def _date(time: int) -> str:
    return datetime.fromtimestamp(time // 1_000_000, UTC).date().isoformat()
