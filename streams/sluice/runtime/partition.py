"""One partition's usage applied in order; runs of it at once where nothing happens on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sluice.errors import WireError
from sluice.metering.columnar.priced import Priced
from sluice.runtime.accounting import Accounting, Labelled, Refused
from sluice.runtime.governance import ReferenceStore
from sluice.runtime.governed import Governed
from sluice.runtime.governing_columns import Charged
from sluice.runtime.incoming import Incoming, Run
from sluice.runtime.outputs import OutRecord, Record
from sluice.runtime.places import usage_place
from sluice.runtime.sharing import Sharing
from sluice.runtime.state import State
from sluice.runtime.watching import Watching
from sluice.wire.topics import Topics


class Partition(Governed):
    """Applies records of one usage partition."""

    def __init__(
        self, topics: Topics, number: int, state: State, references: ReferenceStore, *,
        epoch: int, generation: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(
            topics, usage_place(topics, number), state, references,
            epoch=epoch, generation=generation,
        )  # fmt: skip
        self._accounting = Accounting(state, references)
        self._sharing = Sharing(state, self._outbox, references, version_base=self._version_base)
        self._watching = Watching(state, self._outbox, self._governance.policies, epoch=self.epoch)
        self._position = 0

    @property
    def share_waits(self) -> bool:
        """Whether usage of a budget that spans tenants waits to be told."""
        return self._sharing.waits

    def apply(self, records: Sequence[Record]) -> int:
        """Apply records in order and return how many were.

        Fewer than all means that the next one activates a version that has not arrived yet.
        """
        done = self._apply(records) if records else 0
        if done:
            self._position = records[done - 1].offset + 1
        return done

    def _apply(self, records: Sequence[Record]) -> int:
        incoming, begin = Incoming(records, self.state.header.time), 0
        for end in incoming.ends().tolist():
            if begin in incoming.others:
                name, fields = incoming.others[begin]
                if name == "Activate" and not self._at_hand(fields):
                    return begin
                self._advance(records[begin])
                self._dispatch(records[begin], name, fields)
            else:
                self._advance(records[begin])
                self._run(incoming, begin, end)
            begin = end
        return len(records)

    def take(self) -> list[OutRecord]:
        """State changes and outputs since the last call, as one checkpoint writes them."""
        self._sharing.tell(self._position)
        return super().take()

    # ---- records

    def _report(self, record: Record, fields: dict[str, Any]) -> None:
        if fields["tenant_id"]:
            super()._report(record, fields)
            return
        try:
            self._sharing.answer(record, fields)
        except WireError as error:
            self._dead_letter(record, error)

    def _run(self, incoming: Incoming, begin: int, end: int) -> None:
        """Apply usage within one second, and what cannot be read between it."""
        faults: Refused = [
            (incoming.records[place], error)
            for place, error in incoming.faults.items()
            if begin <= place < end
        ]
        run = incoming.run(begin, end)
        if len(run.records):
            faults += self._usage(run)
        self.state.header.time = int(incoming.time[end - 1])
        for record, error in sorted(faults, key=lambda fault: fault[0].offset):
            self._dead_letter(record, error)

    def _usage(self, run: Run) -> Refused:
        """Apply a run; events that break a rule."""
        fresh, refused = self._accounting.fresh(run)
        told = fresh.usage.coded("event_type").where("admission")
        if told.any():
            refused += self._accounting.add_refusals(fresh.take(np.flatnonzero(told)))
            fresh = fresh.take(np.flatnonzero(~told))
        if not len(fresh.records):
            return refused
        charged, found, more = self._accounting.priced(fresh)
        return refused + more + (self._charge(charged, found) if len(charged.records) else [])

    def _charge(self, run: Run, found: Priced) -> Refused:
        """Add events to every sum and to their budgets, each to all or none of them."""
        labelled = self._accounting.labelled(run, found)
        charged = Charged(run, found.cost_pusd, found.priced)
        rooms = (self._governance, self._sharing)
        if self._accounting.has_room(labelled) and all(of.has_room(charged) for of in rooms):
            self._settle(labelled, charged)
            return []
        if len(run.records) > 1:
            ones = [np.array([row]) for row in range(len(run.records))]
            return [fault for one in ones for fault in self._charge(run.take(one), found.take(one))]
        try:
            self._accounting.check(labelled)
            self._governance.check(charged)
            self._sharing.check(charged)
        except OverflowError as error:
            return [(run.records[0], WireError("sum_overflow", str(error)))]
        self._settle(labelled, charged)
        return []

    def _settle(self, labelled: Labelled, charged: Charged) -> None:
        self._accounting.add(labelled)
        self._governance.charge(charged)
        self._sharing.add(charged)
        self._watching.observe(charged)

    # ---- time and versions

    def next_due(self) -> int | None:
        """Broker time at which work waits even if no record comes (µs), or None."""
        dues = (super().next_due(), self._watching.next_due())
        return min((due for due in dues if due is not None), default=None)

    def _pass_time(self, record: Record) -> None:
        super()._pass_time(record)
        self._watching.pass_time(record)

    def _switch_policy(self, record: Record, policy_id: str, version: str) -> None:
        before = self._governance.policy(policy_id)
        super()._switch_policy(record, policy_id, version)
        self._watching.switch(before, self._governance.policy(policy_id))
