"""What a partition's tenants have used of budgets that span tenants, added up and told.

Ledgers, rungs and leases of these budgets are the rollup's. A partition keeps its shares of them:
whole groups of events at once, however many tenants or processes they come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sluice.enforcement import columnar, shares
from sluice.enforcement.policy import Budget
from sluice.enforcement.shares import Share, ShareKey
from sluice.metering.columnar.usage import grouped
from sluice.periods import Period
from sluice.runtime.governing_columns import ROOM, Charged, Taken, moved, reported, taken
from sluice.runtime.in_force import InForce, ReferenceStore
from sluice.runtime.incoming import Run
from sluice.runtime.outputs import Outbox, Record
from sluice.runtime.reports import check_question
from sluice.runtime.state import SHARE, State
from sluice.wire.codec import encode
from sluice.wire.column_types import Ints


class _Part(NamedTuple):
    """What a run adds to one share; broker times (µs) of its first and its latest event."""

    key: ShareKey
    budget: Budget
    period: Period
    first: int
    latest: int
    added: shares.Sums


class Sharing(InForce):
    """Counts shares of ledgers that span tenants, and tells the rollup those that changed.

    `version_base` is the topic generation's share of row versions.
    """

    def __init__(
        self, state: State, outbox: Outbox, references: ReferenceStore, *, version_base: int
    ) -> None:
        super().__init__(state, references, of_tenants=False)
        self._outbox = outbox
        self._version_base = version_base
        self._untold: dict[ShareKey, Share] = {}
        # No sum of a share was ever farther from 0; None before the state was looked at.
        self._most: int | None = None

    @property
    def waits(self) -> bool:
        """Whether a share waits to be told."""
        return bool(self._untold)

    # ---- usage

    def has_room(self, charged: Charged) -> bool:
        """Whether no share can leave 64 bits, whichever of these events are added."""
        units = {budget.ledger_unit for _, budget in self.governed()}
        return self._farthest() + moved(units, charged) < ROOM

    def check(self, charged: Charged) -> None:
        """Raise OverflowError where a share cannot take the only event of a run."""
        for part in self._parts(charged):
            shares.add(msgspec.structs.replace(self._share(part)), part.added)

    def add(self, charged: Charged) -> None:
        """Add the events of a run, all within one second, to their shares."""
        for part in self._parts(charged):
            share = self._state.shares[part.key] = self._share(part)
            shares.add(share, part.added)
            if part.budget.rolling_us is not None:
                share.period_end = max(share.period_end, _leaves(part.budget, part.latest))
            self._most = max(self._farthest(), _largest(share))
            self._note(part.key, share)

    def _farthest(self) -> int:
        if self._most is None:
            self._most = max(map(_largest, self._state.shares.values()), default=0)
        return self._most

    def _parts(self, charged: Charged) -> Iterator[_Part]:
        for of in taken(charged, self.governed()):
            yield from _parts_of(of, charged.run, self._outbox.number)

    def _share(self, part: _Part) -> Share:
        """The share that a part is added to; it begins anew where the budget's unit is another."""
        unit, known = part.budget.ledger_unit, self._state.shares.get(part.key)
        if known is not None and known.unit == unit:
            return known
        begun_at = part.first if known is None else max(part.first, known.begun_at + 1)
        if part.budget.rolling_us is None:
            return Share(unit, part.period.start, part.period.end, begun_at)
        return Share(unit, begun_at, _leaves(part.budget, part.latest), begun_at)

    def _note(self, key: ShareKey, share: Share) -> None:
        self._untold[key] = share
        self._state.touch(SHARE, key)

    # ---- what is told

    def answer(self, record: Record, fields: dict[str, Any]) -> None:
        """Tell what a process has used that is over; WireError where a report does not ask that.

        Of a process that is not known zeros are told, and not kept.
        """
        check_question(record, fields)
        key = ShareKey(
            self._outbox.number, fields["policy_id"], fields["budget_ids"][0], fields["scope"],
            fields["period"], fields["holder"], fields["source_epoch"],
        )  # fmt: skip
        self._state.count("reports")
        share, time = self._state.shares.get(key), self._state.header.time
        if share is None:
            self._untold[key] = Share(fields["unit"], time, time, time, closing=True)
        else:
            share.closing = True
            self._note(key, share)

    def tell(self, position: int) -> None:
        """Publish the shares that changed, as rows that cover the input below `position`."""
        told, self._untold = self._untold, {}
        for key, share in told.items():
            share.version = self._version_base + position
            value = encode("PartialRow", shares.share_record(key, share))
            self._outbox.share(key.budget_id.encode(), value)


def _parts_of(of: Taken, run: Run, number: int) -> Iterator[_Part]:
    """What events of one budget add to each share, in the order of their first events."""
    rows, ledger = of.counted.rows, of.counted.of
    codes, names = _holders(of, run)
    first, share = grouped(ledger, *codes)
    latest = np.zeros(len(first), dtype=np.int64)
    latest[share] = run.time[rows]  # the last one stays, and time never goes back
    sums = columnar.sums(share, len(first), of.used, of.facts)
    for n, at in enumerate(first.tolist()):
        group, added = int(ledger[at]), sums[n]
        period = of.counted.periods[group]
        holder = [values[code[at]] or "" for code, values in zip(codes, names, strict=True)]
        key = ShareKey(
            number, of.policy.policy_id, of.budget.budget_id, of.counted.scopes[group],
            period.period_id, *holder,
        )  # fmt: skip
        yield _Part(
            key, of.budget, period, int(run.time[rows[at]]), int(latest[n]),
            shares.Sums(added.total, added.corrected, added.events, added.unpriced),
        )  # fmt: skip


def _holders(of: Taken, run: Run) -> tuple[list[Ints], list[list[str | None]]]:
    """Of a hard budget: process and epoch of each event, nobody where no lease is about it."""
    if not of.budget.hard:
        return [], []
    rows = of.counted.rows
    by_holder, *names = reported(run)
    codes = [np.where(by_holder[rows], coded.codes[rows] + 1, 0) for coded in names]
    return codes, [[None, *coded.values] for coded in names]


def _largest(share: Share) -> int:
    return max(abs(share.settled), abs(share.corrected))


def _leaves(budget: Budget, time: int) -> int:
    """When usage that was seen at `time` has surely left a rolling period."""
    return time + 2 * (budget.rolling_us or 0)
