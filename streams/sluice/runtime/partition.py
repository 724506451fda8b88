"""One partition's usage applied in order: state in, state and outputs out, no clock, no Kafka.

Time is the highest broker timestamp seen. Work that depends on time happens at second borders of
that time, before the record that crosses the border, so chunk borders change nothing. A row's
version is the input position it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sluice.errors import WireError
from sluice.metering.columnar.priced import Priced
from sluice.runtime.accounting import Accounting, Labelled, Refused
from sluice.runtime.governance import Governance, ReferenceStore
from sluice.runtime.governing_columns import Charged
from sluice.runtime.incoming import Incoming, Run
from sluice.runtime.outputs import Outbox, OutRecord, Record
from sluice.runtime.publishing import PUBLISH_S, ROUND_S, SECOND_US, SWEEP_S, Publishing
from sluice.runtime.sharing import Sharing
from sluice.runtime.state import HEADER, State
from sluice.runtime.watching import Watching
from sluice.wire.topics import Topics

ANNOUNCE_US = 24 * 3_600_000_000
_SWITCHED = frozenset({"policy", "price_book", "baseline"})


class Partition:
    """Applies records of one usage partition."""

    def __init__(
        self, topics: Topics, number: int, state: State, references: ReferenceStore, *,
        epoch: int, generation: int = 0,
    ) -> None:  # fmt: skip
        self.number = number
        self.state = state
        self._topics = topics
        self._references = references
        self.epoch = (generation << 32) + epoch
        self._outbox = Outbox(topics, number)
        self._governance = Governance(
            state, self._outbox, references, epoch=self.epoch, version_base=generation << 48
        )
        self._sharing = Sharing(state, self._outbox, references, version_base=generation << 48)
        self._accounting = Accounting(state, references)
        self._watching = Watching(
            state, self._outbox, self._governance.policies, epoch=self.epoch,
            version_base=generation << 48,
        )  # fmt: skip
        self._publishing = Publishing(state, self._outbox, generation << 48)
        self._position = 0
        self.waiting_for: tuple[str, str, str] | None = None

    @property
    def urgent_since(self) -> int | None:
        """Broker time (µs) of the first record whose decision waits to be committed."""
        return self._outbox.urgent_since

    @property
    def urgent(self) -> bool:
        """Whether a decision waits to be committed."""
        return self._outbox.urgent

    @property
    def share_waits(self) -> bool:
        """Whether usage of a budget that spans tenants waits to be told."""
        return self._sharing.waits

    def ready(self) -> bool:
        """Whether every version in force is at hand; `waiting_for` names the one that is not."""
        names = self.in_force()
        self.waiting_for = next((n for n in names if self._references.get(n) is None), None)
        return self.waiting_for is None

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

    def announce_due(self) -> bool:
        """Whether the versions in force should be named again in this partition's input.

        Usage is kept for a week; whoever begins to read it then must still learn what is in force.
        """
        header = self.state.header
        return header.time - header.announced > ANNOUNCE_US and bool(self.in_force())

    def in_force(self) -> list[tuple[str, str, str]]:
        """Names of every version in force."""
        header = self.state.header
        kinds = (("price_book", header.price_book), ("baseline", header.baseline))
        policies = [("policy", *item) for item in sorted(header.policies.items())]
        return [*policies, *((kind, *held) for kind, held in kinds if held)]

    def take(self) -> list[OutRecord]:
        """State changes and outputs since the last call, as one checkpoint writes them."""
        self._sharing.tell(self._position)
        changelog = self._topics.meter_state
        rows = [OutRecord(changelog, self.number, k, v) for k, v in self.state.take_changes()]
        return rows + self._outbox.take()

    def next_due(self) -> int | None:
        """Broker time at which work waits even if no record comes (µs), or None."""
        dues = (self._governance.next_due(), self._watching.next_due(),
                self._publishing.next_due())  # fmt: skip
        return min((due for due in dues if due is not None), default=None)

    # ---- time

    def _advance(self, record: Record) -> None:
        header = self.state.header
        header.time = max(header.time, record.timestamp * 1000)
        self.state.touch(HEADER)
        slot = header.time // SECOND_US
        if slot == header.slot:
            return
        last, header.slot = header.slot, slot
        self._governance.pass_time(record)
        self._watching.pass_time(record)
        is_round = slot // PUBLISH_S != last // PUBLISH_S
        if is_round:
            self._publishing.end_due()
        self._publishing.windows(record.offset, range(max(last, slot - PUBLISH_S) + 1, slot + 1))
        if is_round:
            self._publishing.tasks(record.offset)
            for key in sorted(key for key, led in self.state.ledgers.items() if led.dirty):
                self._governance.publish(key, record.offset)
        if slot // ROUND_S != last // ROUND_S:
            self._publishing.round(record.offset)
            self._watching.rows(record.offset)
        if slot // SWEEP_S != last // SWEEP_S:
            self._publishing.sweep()

    # ---- records

    def _dispatch(self, record: Record, name: str, fields: dict[str, Any]) -> None:
        if name == "Activate":
            self._activate(record, fields)
        elif name == "HolderReport":
            self._report(record, fields)
        elif name != "Tick":
            self._dead_letter(record, WireError("unexpected_record", f"{name} on a usage topic"))

    def _report(self, record: Record, fields: dict[str, Any]) -> None:
        try:
            if fields["tenant_id"]:
                self._governance.holder_report(record, fields)
            else:
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

    # ---- versions

    def _at_hand(self, fields: dict[str, Any]) -> bool:
        name = (fields["kind"], fields["id"], fields["version"])
        if fields["kind"] not in _SWITCHED or not fields["version"]:
            return True
        arrived = self._references.get(name) is not None or self._references.is_faulty(name)
        self.waiting_for = None if arrived else name
        return arrived

    def _activate(self, record: Record, fields: dict[str, Any]) -> None:
        kind, ident, version = fields["kind"], fields["id"], fields["version"]
        if version and (kind, ident, version) in self.in_force():
            self.state.header.announced = self.state.header.time
            return  # named again, so that whoever reads the topic from here on knows it
        if kind not in _SWITCHED:
            self._dead_letter(record, WireError("unknown_activation", f"kind {kind!r}"))
            return
        if version and self._references.get((kind, ident, version)) is None:
            self._dead_letter(record, WireError("bad_reference", f"{kind} {ident} {version}"))
            return
        self.state.header.announced = self.state.header.announced or self.state.header.time
        if kind == "price_book":
            self.state.header.price_book = (ident, version) if version else None
        elif kind == "baseline":
            self.state.header.baseline = (ident, version) if version else None
        else:
            before = self._governance.policy(ident)
            self._governance.switch_policy(record, ident, version)
            self._watching.switch(before, self._governance.policy(ident))

    def _dead_letter(self, record: Record, error: WireError) -> None:
        self.state.count("dead_letters")
        self.state.count(f"dead_letters.{error.reason}")
        self._outbox.dead_letter(record, error)
