"""What holders have of ledgers that draw on each other, summed as it changes.

A request reserves in every ledger of its chain. So one process of a holder has of a ledger what its
own lease holds, or what its leases of the ledgers below hold together, whichever is more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from sluice.enforcement.budgets import LedgerKey
from sluice.enforcement.leases import PRESUMED, Lease, LeaseKey, held

Process = tuple[str, str]  # holder, source_epoch
Place = tuple[LedgerKey, Process]
Chain = Sequence[LedgerKey]  # a ledger and what it draws on, the nearest first


class Reserved:
    """Amounts by ledger and process, in the ledgers' unit."""

    def __init__(self) -> None:
        self._own: dict[Place, int] = defaultdict(int)
        self._below: dict[Place, int] = defaultdict(int)
        self._total: dict[LedgerKey, int] = defaultdict(int)
        self._presumed: dict[LedgerKey, int] = defaultdict(int)
        self._presumed_of: dict[Place, int] = {}

    def put(self, chain: Chain, key: LeaseKey, lease: Lease | None) -> None:
        """Take what a lease holds now; None = it is gone."""
        process = (key.holder, key.source_epoch)
        amount = held(lease) if lease else 0
        self._put_presumed((chain[0], process), amount if lease and lease.phase == PRESUMED else 0)
        changed = self._own
        for ledger in chain:
            place = (ledger, process)
            before = self.of(ledger, process)
            changed[place] = amount if changed is self._own else changed[place] + amount
            amount = self.of(ledger, process) - before
            self._total[ledger] += amount
            changed = self._below

    def _put_presumed(self, place: Place, amount: int) -> None:
        self._presumed[place[0]] += amount - self._presumed_of.pop(place, 0)
        if amount:
            self._presumed_of[place] = amount

    def of(self, ledger: LedgerKey, process: Process) -> int:
        """What a process has of a ledger."""
        place = (ledger, process)
        return max(self._own.get(place, 0), self._below.get(place, 0))

    def total(self, ledger: LedgerKey) -> int:
        """What all processes have of a ledger."""
        return self._total.get(ledger, 0)

    def presumed(self, ledger: LedgerKey) -> int:
        """Of the total: what vanished holders are presumed to have spent."""
        return self._presumed.get(ledger, 0)

    def others(self, chain: Chain, process: Process) -> Iterator[int]:
        """For each ledger of a chain: what is had of it beside the process's lease of the first."""
        siblings = 0
        for ledger, below in zip(chain, (None, *chain), strict=False):
            if below is not None:
                siblings += self._below.get((ledger, process), 0) - self.of(below, process)
            yield self.total(ledger) - self.of(ledger, process) + siblings
