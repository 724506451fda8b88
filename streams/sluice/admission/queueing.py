"""Requests that wait their turn: by priority, fair between tenants, nobody for ever.

Pure; one thread at a time. Times are µs UTC.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from sluice.admission.rate import Bucket, Rate

PRIORITIES = ("guaranteed", "standard", "batch")
# Whoever has waited so long goes as one of the next higher class.
AGE_US = 5_000_000
# What one request moves its tenant's turn on by, at weight 1.
_TURN = 1_000_000


@dataclass(slots=True, eq=False)
class Ticket:
    """One waiting request; `turn` orders the tenants within a class."""

    rank: int
    tenant_id: str
    joined_at: int
    turn: int = 0
    granted: bool = False


def rank_of(priority: str) -> int:
    """Class of a priority, 0 first; one that is unknown here waits with batch."""
    return PRIORITIES.index(priority) if priority in PRIORITIES else len(PRIORITIES) - 1


class FairQueue:
    """Gives turns by class, and within a class in proportion to the tenants' weights.

    A tenant's requests keep their order within a class. Waiting moves a request up a class every
    AGE_US, and turns within a class only grow, so every request is served in the end.
    """

    def __init__(self, weights: Mapping[str, int] | None = None) -> None:
        self._weights = weights or {}
        self._lines: dict[tuple[int, str], deque[Ticket]] = {}
        self._finished: dict[str, int] = {}
        self._turn = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def join(self, priority: str, tenant_id: str, now: int) -> Ticket:
        """A ticket at the end of its tenant's line."""
        ticket = Ticket(rank_of(priority), tenant_id, now)
        weight = max(1, self._weights.get(tenant_id, 1))
        ticket.turn = max(self._turn, self._finished.get(tenant_id, 0)) + _TURN // weight
        self._finished[tenant_id] = ticket.turn
        self._lines.setdefault((ticket.rank, tenant_id), deque()).append(ticket)
        self._length += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out that will not be used."""
        line = self._lines.get((ticket.rank, ticket.tenant_id))
        if line is not None and ticket in line:
            line.remove(ticket)
            self._shorten((ticket.rank, ticket.tenant_id), line)

    def pop(self, now: int) -> Ticket | None:
        """The ticket whose turn it is; None where nobody waits."""
        if not self._length:
            return None
        heads = ((self._order(line[0], now), name) for name, line in self._lines.items())
        _, name = min(heads)
        line = self._lines[name]
        ticket = line.popleft()
        self._turn = max(self._turn, ticket.turn)
        self._shorten(name, line)
        return ticket

    def _order(self, ticket: Ticket, now: int) -> tuple[int, int, int]:
        aged = (now - ticket.joined_at) // AGE_US
        return max(0, ticket.rank - aged), ticket.turn, ticket.joined_at

    def _shorten(self, name: tuple[int, str], line: deque[Ticket]) -> None:
        self._length -= 1
        if not line:
            del self._lines[name]
        if not self._length:
            # Nobody is owed anything any more.
            self._finished.clear()


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
