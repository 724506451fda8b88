"""What watchers remember of a partition: sums by tenant and pool, levels of cost, times by place.

Every row can be stored and comes back the same; what is idle is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sluice.compiled import compiled
from sluice.enforcement.policy_ladder import SPANS
from sluice.enforcement.rings import Rings, Scope, StoredRow
from sluice.enforcement.signals import drift, jitter
from sluice.enforcement.signals.jitter import Spread
from sluice.enforcement.watch_run import Run
from sluice.metering.columnar.usage import grouped
from sluice.metering.histogram import BORDERS, ZERO_BUCKET
from sluice.wire.column_types import Bools, Coded, Ints

TENANT, POOL, PLACE = b"t", b"p", b"j"
SPEND = ("cost_pusd", "tokens", "requests", "retries", "judged_pusd", "bad_pusd")
USE = ("load", "queue_us", "waited")
USE_SPANS = (SPANS[0], SPANS[-1])
TTFT, TOOL = "ttft", "tool"
_PLACE_KEEP_US = 6 * 3_600_000_000
_BORDERS = np.array(BORDERS, dtype=np.int64)

_encode = msgspec.msgpack.Encoder().encode
_place = msgspec.msgpack.Decoder(tuple[str, str, str]).decode
_scope = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_spread = msgspec.msgpack.Decoder(Spread).decode


class Place(NamedTuple):
    """Where times are measured: `what` is ttft or tool."""

    what: str
    pool: str
    region: str


class TenantRow(msgspec.Struct, array_like=True):
    """A tenant as stored: its sums, and the level of its costs."""

    sums: StoredRow
    drift: list[int]


_tenant_row = msgspec.msgpack.Decoder(TenantRow).decode
_pool_row = msgspec.msgpack.Decoder(StoredRow).decode


class Tables:
    """Sums of one partition; only what the signals in `wanted` need is kept."""

    def __init__(self) -> None:
        self.wanted: frozenset[str] = frozenset()
        self.tenants = Rings(SPANS, SPEND)
        self.pools = Rings(USE_SPANS, USE)
        self.drifts = drift.blank(0)
        self.places: dict[Place, Spread] = {}
        self._changed_places: set[Place] = set()

    def add(self, run: Run) -> None:
        """Add events that lie in one window of `jitter`."""
        if not len(run.time):
            return
        rows = _rows(self.tenants, run.tenant, run.time)
        self.tenants.add(rows, run.time, _spend(run))
        if "drift" in self.wanted:
            self._add_levels(rows, run)
        if "noisy_neighbour" in self.wanted:
            self._add_use(run)
        if "jitter" in self.wanted:
            self._add_times(run)

    def _add_levels(self, rows: Ints, run: Run) -> None:
        self._fit_drifts()
        known = run.cost_pusd.known
        drift.follow(self.drifts, rows[known], buckets_of(run.cost_pusd.value[known]))

    def _fit_drifts(self) -> None:
        missing = len(self.tenants.scopes) - len(self.drifts)
        if missing > 0:
            self.drifts = np.concatenate([self.drifts, drift.blank(missing)])

    def _add_use(self, run: Run) -> None:
        where = _has(run.pool)
        if not where.any():
            return
        pool, tenant, time = run.pool.codes[where], run.tenant.codes[where], run.time[where]
        use = np.stack([run.load, run.queue_us.value, run.queue_us.known], axis=1)[where]
        for codes in ((pool,), (pool, tenant)):
            groups = grouped(*codes)
            scopes = [
                tuple(str(column.values[code[first]])
                      for column, code in zip((run.pool, run.tenant), codes, strict=False))
                for first in groups.first
            ]  # fmt: skip
            pairs = zip(scopes, groups.first, strict=True)
            rows = [self.pools.row(scope, int(time[first])) for scope, first in pairs]
            self.pools.add(np.array(rows, dtype=np.int64)[groups.of], time, use)

    def _add_times(self, run: Run) -> None:
        where = _has(run.pool) & run.slow_us.known
        if not where.any():
            return
        buckets = buckets_of(run.slow_us.value[where])
        pool, region, tool = run.pool.codes[where], run.region.codes[where], run.tool[where]
        time = int(run.time[-1])
        groups = grouped(pool, region, tool.astype(np.int64), buckets - ZERO_BUCKET)
        counts = np.bincount(groups.of, minlength=len(groups.first))
        for first, count in zip(groups.first.tolist(), counts.tolist(), strict=True):
            name = run.region.values[region[first]] or ""
            what = TOOL if tool[first] else TTFT
            place = Place(what, str(run.pool.values[pool[first]]), name)
            self.turned(place, time)
            jitter.add(self.places[place], int(buckets[first]), count)

    def turned(self, place: Place, time: int) -> Spread:
        """The times of a place, in the window of `time`."""
        spread = self.places.setdefault(place, Spread(time // jitter.WINDOW_US))
        jitter.turn(spread, time)
        self._changed_places.add(place)
        return spread

    def levels(self, rows: Ints) -> Ints:
        """The levels of cost of tenants, by their rows."""
        self._fit_drifts()
        return self.drifts[rows]

    def forget_idle(self, time: int) -> list[int]:
        """Drop what was silent for long; return the rows of the tenants that went."""
        idle = self.tenants.idle(time)
        gone = [self.tenants.rows[scope] for scope in idle]
        for scope in idle:
            self._forget_level(scope)
            self.tenants.drop(scope)
        for scope in self.pools.idle(time):
            self.pools.drop(scope)
        before = (time - _PLACE_KEEP_US) // jitter.WINDOW_US
        for place in sorted(p for p, spread in self.places.items() if spread.slot < before):
            del self.places[place]
            self._changed_places.add(place)
        return gone

    def _forget_level(self, scope: Scope) -> None:
        row = self.tenants.rows.get(scope)
        if row is not None and row < len(self.drifts):
            self.drifts[row] = 0

    # ---- rows

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Rows that changed since the last call, encoded; None removes a row."""
        self._fit_drifts()
        for scope in self.tenants.take_changed():
            yield TENANT + _encode(scope), self._tenant(scope)
        for scope in self.pools.take_changed():
            stored = self.pools.stored(scope) if scope in self.pools.rows else None
            yield POOL + _encode(scope), None if stored is None else _encode(stored)
        changed, self._changed_places = sorted(self._changed_places), set()
        for place in changed:
            spread = self.places.get(place)
            yield PLACE + _encode(place), None if spread is None else _encode(spread)

    def _tenant(self, scope: Scope) -> bytes | None:
        row = self.tenants.rows.get(scope)
        if row is None:
            return None
        return _encode(TenantRow(self.tenants.stored(scope), self.drifts[row].tolist()))

    def load(self, key: bytes, value: bytes) -> None:
        """Take one stored row; an empty value removes it."""
        _LOADERS[key[:1]](self, key[1:], value)

    def _load_tenant(self, key: bytes, value: bytes) -> None:
        scope = _scope(key)
        if not value:
            self._forget_level(scope)
            self.tenants.forget(scope)
            return
        row = _tenant_row(value)
        self.tenants.put(scope, row.sums)
        self._fit_drifts()
        self.drifts[self.tenants.rows[scope]] = row.drift

    def _load_pool(self, key: bytes, value: bytes) -> None:
        scope = _scope(key)
        self.pools.put(scope, _pool_row(value)) if value else self.pools.forget(scope)

    def _load_place(self, key: bytes, value: bytes) -> None:
        place = Place(*_place(key))
        if value:
            self.places[place] = _spread(value)
        else:
            self.places.pop(place, None)


_LOADERS: dict[bytes, Callable[[Tables, bytes, bytes], None]] = {
    TENANT: Tables._load_tenant,
    POOL: Tables._load_pool,
    PLACE: Tables._load_place,
}


def buckets_of(values: Ints) -> Ints:
    """The buckets of `metering.histogram` that whole numbers lie in; below 0 counts as 0."""
    found = np.searchsorted(_BORDERS, values, side="left").astype(np.int64)
    return np.where(values > 0, found, ZERO_BUCKET)


def _spend(run: Run) -> Ints:
    cost = run.cost_pusd.value
    columns: Iterable[Any] = (
        cost, run.tokens, np.ones(len(cost)), run.retry,
        np.where(run.judged, cost, 0), np.where(run.bad, cost, 0),
    )  # fmt: skip
    return np.stack([np.asarray(column, dtype=np.int64) for column in columns], axis=1)


def _has(column: Coded) -> Bools:
    known = np.array([value is not None for value in column.values], dtype=np.bool_)
    return known[column.codes] if len(known) else np.zeros(len(column.codes), dtype=np.bool_)


def _rows(rings: Rings, scopes: Coded, time: Ints) -> Ints:
    """The row of each event's scope."""
    rows = np.zeros(len(scopes.values), dtype=np.int64)
    firsts = _firsts(scopes.codes, len(scopes.values))
    for code in np.flatnonzero(firsts >= 0).tolist():
        rows[code] = rings.row((str(scopes.values[code]),), int(time[firsts[code]]))
    return rows[scopes.codes]


@compiled
def _firsts(codes: Ints, distinct: int) -> Ints:
    """Where each code stands first, -1 where it does not."""
    found = np.full(distinct, -1, dtype=np.int64)
    for i in range(len(codes)):
        if found[codes[i]] < 0:
            found[codes[i]] = i
    return found
