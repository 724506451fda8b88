"""Budgets that span tenants: shares of usage partitions and reports of holders in one order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sluice.errors import WireError
from sluice.runtime.governance import ReferenceStore
from sluice.runtime.governed import Governed
from sluice.runtime.outputs import Record
from sluice.runtime.places import across_place
from sluice.runtime.state import State
from sluice.runtime.told import ToldShares
from sluice.runtime.wholeness import unanswered
from sluice.wire.codec import decode
from sluice.wire.topics import Topics


class Across(Governed):
    """Applies what budgets that span tenants are told."""

    def __init__(
        self, topics: Topics, partition: int, state: State, references: ReferenceStore, *,
        epoch: int, generation: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(
            topics, across_place(topics, partition), state, references,
            epoch=epoch, generation=generation,
        )  # fmt: skip
        self._partitions = topics.partitions
        self._told = ToldShares(state, self._governance, topics.partitions)

    def apply(self, records: Sequence[Record]) -> int:
        """Apply records in order and return how many were.

        Fewer than all means that the next one activates a version that has not arrived yet.
        """
        for done, record in enumerate(records):
            try:
                name, fields = decode(record.value or b"")
            except WireError as error:
                self._advance(record)
                self._dead_letter(record, error)
                continue
            if name == "Activate" and not self._at_hand(fields):
                return done
            self._advance(record)
            self._dispatch(record, name, fields)
        return len(records)

    def _dispatch(self, record: Record, name: str, fields: dict[str, Any]) -> None:
        if name != "PartialRow":
            super()._dispatch(record, name, fields)
            return
        try:
            self._told.hear(record, fields)
        except WireError as error:
            self._dead_letter(record, error)

    def _switch_policy(self, record: Record, policy_id: str, version: str) -> None:
        super()._switch_policy(record, policy_id, version)
        self._told.charge_waiting(record, policy_id)

    def closing_questions(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Usage partitions that hold up the end of a lease, and the HolderReport to ask with."""
        for key, lease in self._governance.closing_leases():
            question = {
                "holder": key.holder, "holder_slot": lease.slot, "source_epoch": key.source_epoch,
                "tenant_id": "", "policy_id": key.policy_id, "budget_ids": [key.budget_id],
                "scope": key.scope, "period": key.period_id,
                "unit": self.state.ledgers[key.ledger].unit, "wants": 0, "in_flight_reserved": 0,
                "interim_spend": 0, "last_seq": lease.last_seq, "closing": True,
            }  # fmt: skip
            for number in unanswered(self.state, key, self._partitions):
                yield number, question
