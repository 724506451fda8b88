"""What falls due when: a heap over identities whose owners know the true time."""

from __future__ import annotations

import heapq
from typing import Any

Identity = tuple[Any, ...]


class Agenda:
    """Identities by the broker time (µs) at which something about them ends.

    An entry may be early, never late: whoever takes it looks at the state again. So a restart that
    fills it from the state finds the same things due.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, Identity]] = []
        self._entered: dict[Identity, int] = {}

    def enter(self, identity: Identity, due: int | None) -> None:
        """Remember that `identity` falls due; an earlier entry of it stays."""
        if due is None or self._entered.get(identity, due + 1) <= due:
            return
        self._entered[identity] = due
        heapq.heappush(self._heap, (due, identity))

    def take(self, time: int) -> list[Identity]:
        """Identities due by `time`, sorted; they are to be entered again where more is to come."""
        due = set()
        while self._heap and self._heap[0][0] <= time:
            at, identity = heapq.heappop(self._heap)
            if self._entered.get(identity) == at:
                del self._entered[identity]
                due.add(identity)
        return sorted(due)

    def next_due(self) -> int | None:
        """The earliest entry, µs."""
        while self._heap and self._entered.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
