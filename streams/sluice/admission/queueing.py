"""Requests that wait their turn: by priority, fair between tenants, nobody for ever.

Pure; one thread at a time. Times are µs UTC.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from sluice.admission.rate import Bucket, Rate

PRIORITIES = ("guaranteed", "standard", "batch")
# A class that waited so long for a turn stands as the next higher one until it has had it.
AGE_US = 5_000_000
# Turns are counted within so long.
SERVED_US = 60_000_000
# What one turn counts for at weight 1.
_TURN = 1_000_000


@dataclass(slots=True, eq=False)
class Ticket:
    """One waiting request; `number` is its place among all that ever joined its queue."""

    rank: int
    tenant_id: str
    number: int
    granted: bool = False


def rank_of(priority: str) -> int:
    """Class of a priority, 0 first; one that is unknown here waits with batch."""
    return PRIORITIES.index(priority) if priority in PRIORITIES else len(PRIORITIES) - 1


class FairQueue:
    """Gives turns by class, and within a class to the tenant that had least for its weight.

    What counts is turns in that class within the last minute; of several tenants the one goes whose
    request came first, and a tenant's requests of a class keep their order. So whoever had no turn
    for a minute is passed by nobody who came later. A class that waits moves up one class every
    AGE_US until it has a turn, so every request is served in the end.
    """

    def __init__(self, weights: Mapping[str, int] | None = None) -> None:
        self._weights = weights or {}
        self._lines: tuple[dict[str, deque[Ticket]], ...] = tuple({} for _ in PRIORITIES)
        # Since when each class waits for a turn.
        self._since = [0] * len(PRIORITIES)
        # Turns within the last minute: how many by class and tenant, and each of them.
        self._served: Counter[tuple[int, str]] = Counter()
        self._turns: deque[tuple[int, tuple[int, str]]] = deque()
        self._numbers = count()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def join(self, priority: str, tenant_id: str, now: int) -> Ticket:
        """A ticket at the end of its tenant's line."""
        ticket = Ticket(rank_of(priority), tenant_id, next(self._numbers))
        lines = self._lines[ticket.rank]
        if not lines:
            self._since[ticket.rank] = now
        lines.setdefault(tenant_id, deque()).append(ticket)
        self._length += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out that will not be used."""
        line = self._lines[ticket.rank].get(ticket.tenant_id)
        if line is not None and ticket in line:
            line.remove(ticket)
            self._shorten(ticket)

    def pop(self, now: int) -> Ticket | None:
        """The ticket whose turn it is; None where nobody waits."""
        if not self._length:
            return None
        self._forget(now)
        waiting = (rank for rank, lines in enumerate(self._lines) if lines)
        rank = min(waiting, key=lambda rank: self._class_order(rank, now))
        ticket = min((line[0] for line in self._lines[rank].values()), key=self._order)
        self._lines[rank][ticket.tenant_id].popleft()
        self._shorten(ticket)
        self._since[rank] = now
        self._served[rank, ticket.tenant_id] += 1
        self._turns.append((now, (rank, ticket.tenant_id)))
        return ticket

    def _class_order(self, rank: int, now: int) -> tuple[int, int]:
        since = self._since[rank]
        return max(0, rank - max(0, now - since) // AGE_US), since

    def _order(self, ticket: Ticket) -> tuple[int, int]:
        weight = max(1, self._weights.get(ticket.tenant_id, 1))
        return self._served[ticket.rank, ticket.tenant_id] * _TURN // weight, ticket.number

    def _forget(self, now: int) -> None:
        """Drop the turns that are a minute old."""
        while self._turns and self._turns[0][0] <= now - SERVED_US:
            _, name = self._turns.popleft()
            self._served[name] -= 1
            if not self._served[name]:
                del self._served[name]

    def _shorten(self, ticket: Ticket) -> None:
        self._length -= 1
        lines = self._lines[ticket.rank]
        if not lines[ticket.tenant_id]:
            del lines[ticket.tenant_id]


class Gate:
    """Lets a queue through: at a pace, or so many at once."""

    def __init__(self, weights: Mapping[str, int] | None = None) -> None:
        self.queue = FairQueue(weights)
        self.running = 0
        self._bucket: Bucket | None = None

    def move(
        self, pace: Rate | None, width: int, now: int, *, lifted: bool = False
    ) -> list[Ticket]:
        """Grant every ticket that may go at `now`, and return them.

        `pace` is the rate of the decision behind it, without which `width` run at once; `lifted`:
        nothing holds anybody back any more.
        """
        granted: list[Ticket] = []
        while lifted or self._may_go(pace, width, now):
            ticket = self.queue.pop(now)
            if ticket is None:
                break
            if self._bucket is not None and pace is not None and not lifted:
                self._bucket.take()
            ticket.granted = True
            self.running += 1
            granted.append(ticket)
        return granted

    def _may_go(self, pace: Rate | None, width: int, now: int) -> bool:
        if pace is None:
            return self.running < width
        if self._bucket is None:
            self._bucket = Bucket(pace, now)
        else:
            self._bucket.refill(pace, now)
        return self._bucket.wait_us() == 0
