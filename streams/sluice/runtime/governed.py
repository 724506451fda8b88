"""One partition's records applied in order: state in, state and outputs out, no clock, no Kafka.

Time is the highest broker timestamp seen. Work that depends on time happens at second borders of
that time, before the record that crosses the border, so chunk borders change nothing. A row's
version is the input position it covers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from sluice.errors import WireError
from sluice.runtime.governance import Governance, ReferenceStore
from sluice.runtime.outputs import Outbox, OutRecord, Record
from sluice.runtime.places import Place
from sluice.runtime.publishing import PUBLISH_S, ROUND_S, SECOND_US, SWEEP_S, Publishing
from sluice.runtime.state import HEADER, State
from sluice.wire.topics import Topics

ANNOUNCE_US = 24 * 3_600_000_000
_SWITCHED = frozenset({"policy", "price_book", "baseline"})


class Governed(ABC):
    """What all inputs have in common: time, versions in force, budgets, checkpoints."""

    def __init__(
        self, topics: Topics, place: Place, state: State, references: ReferenceStore, *,
        epoch: int, generation: int = 0,
    ) -> None:  # fmt: skip
        self.number = place.number
        self.state = state
        self._place = place
        self._references = references
        self.epoch = (generation << 32) + epoch
        self._version_base = generation << 48
        self._outbox = Outbox(topics, place.number, (place.source, place.partition))
        self._governance = Governance(
            state, self._outbox, references, epoch=self.epoch,
            version_base=self._version_base, of_tenants=place.of_tenants,
        )  # fmt: skip
        self._publishing = Publishing(state, self._outbox, self._version_base)
        self.waiting_for: tuple[str, str, str] | None = None

    @abstractmethod
    def apply(self, records: Sequence[Record]) -> int:
        """Apply records in order and return how many were.

        Fewer than all means that the next one activates a version that has not arrived yet.
        """

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
        return False

    def ready(self) -> bool:
        """Whether every version in force is at hand; `waiting_for` names the one that is not."""
        self.waiting_for = self._missing()
        return self.waiting_for is None

    def at_hand(self) -> bool:
        """Whether every version in force is at hand, without a word on what is waited for."""
        return self._missing() is None

    def _missing(self) -> tuple[str, str, str] | None:
        return next((n for n in self.in_force() if self._references.get(n) is None), None)

    def announce_due(self) -> bool:
        """Whether the versions in force should be named again in this partition's input.

        Input is kept for a week; whoever begins to read it then must still learn what is in force.
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
        to = (self._place.changelog, self._place.partition)
        return [OutRecord(*to, k, v) for k, v in self.state.take_changes()] + self._outbox.take()

    def next_due(self) -> int | None:
        """Broker time at which work waits even if no record comes (µs), or None."""
        dues = (self._governance.next_due(), self._publishing.next_due(),
                self.state.outcomes.next_due())  # fmt: skip
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
        self._pass_time(record)
        self.state.outcomes.end_expired(header.time)
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
        if slot // SWEEP_S != last // SWEEP_S:
            self._publishing.sweep()

    def _pass_time(self, record: Record) -> None:
        """End what is over at the broker time that `record` brings."""
        self._governance.pass_time(record)

    # ---- records

    def _dispatch(self, record: Record, name: str, fields: dict[str, Any]) -> None:
        if name == "Activate":
            self._activate(record, fields)
        elif name == "HolderReport":
            self._report(record, fields)
        elif name != "Tick":
            detail = f"{name} on {self._place.source}"
            self._dead_letter(record, WireError("unexpected_record", detail))

    def _report(self, record: Record, fields: dict[str, Any]) -> None:
        try:
            self._governance.holder_report(record, fields)
        except WireError as error:
            self._dead_letter(record, error)

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
            self._switch_policy(record, ident, version)

    def _switch_policy(self, record: Record, policy_id: str, version: str) -> None:
        """Put a version in force, or with an empty one take the policy out."""
        self._governance.switch_policy(record, policy_id, version)

    def _dead_letter(self, record: Record, error: WireError) -> None:
        self.state.count("dead_letters")
        self.state.count(f"dead_letters.{error.reason}")
        self._outbox.dead_letter(record, error)
