"""Controllers for the simulation of control: no limit, a fixed limit, a fair queue at a rate.

The law of rates is the one by which enforcement grants them, the queue the one of the admission
point.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from sluice.admission.queueing import FairQueue, Ticket
from sluice.bench.control_server import Job
from sluice.enforcement.signals.rates import next_rate
from sluice.enforcement.signals.signal import PPM

_MINUTE_US = 60_000_000


class Law(Protocol):
    """The next granted rate, in requests a minute."""

    def __call__(self, rate: int, pressure_ppm: int, /, *, entitled: int, floor: int) -> int:
        """Lower above a pressure of 1 (PPM), higher well below it, within [floor, entitled]."""


class NoLimit:
    """Everything goes on at once."""

    def __init__(self) -> None:
        self._passing: list[Job] = []
        self._refused: list[Job] = []

    def arrive(self, job: Job, _now_us: int, /) -> None:
        """Let it through."""
        self._passing.append(job)

    def pass_on(self, _now_us: int, /) -> Iterable[Job]:
        """What has come."""
        passing, self._passing = self._passing, []
        return passing

    def refused(self, _now_us: int, /) -> Iterable[Job]:
        """What was refused."""
        refused, self._refused = self._refused, []
        return refused

    def first_token(self, job: Job, waited_us: int, /) -> None:
        """Nothing depends on it."""

    def next_us(self) -> int | None:
        """Nothing is held."""
        return None


class FixedLimit(NoLimit):
    """So many requests of a tenant within any minute; one more is refused."""

    def __init__(self, per_minute: int) -> None:
        super().__init__()
        self._per_minute = per_minute
        self._let: dict[str, deque[int]] = defaultdict(deque)

    def arrive(self, job: Job, now_us: int, /) -> None:
        """Let it through, or refuse it."""
        let = self._let[job.tenant_id]
        if _within_a_minute(let, job.arrival_us) >= self._per_minute:
            self._refused.append(job)
            return
        let.append(job.arrival_us)
        super().arrive(job, now_us)


def _within_a_minute(times: deque[int], now_us: int) -> int:
    """How many of these instants are less than a minute ago; older ones are dropped."""
    while times and times[0] <= now_us - _MINUTE_US:
        times.popleft()
    return len(times)


class Pace(NamedTuple):
    """How a gate lets through: rates a minute, the server's wait that is too long, a time-out, µs.

    Every `every_us` the rate is judged; it stays between `floor` and `entitled`.
    """

    entitled: int = 180
    floor: int = 100
    wait_us: int = 1_000_000
    every_us: int = 2_000_000
    timeout_us: int = 120_000_000


class FairGate(NoLimit):
    """A queue at the gateway, let through at a rate that follows how long the server lets wait."""

    def __init__(self, pace: Pace, law: Law = next_rate) -> None:
        super().__init__()
        self._pace = pace
        self._turns = FairQueue()
        self._law = law
        self._rate = pace.entitled
        self._next_us = 0
        self._judged_us = 0
        self._longest_us = 0
        # Tickets as they wait and as they came; jobs that the server has not answered.
        self._waiting: dict[Ticket, Job] = {}
        self._came: deque[tuple[Ticket, Job]] = deque()
        self._unanswered: dict[int, int] = {}

    def arrive(self, job: Job, now_us: int, /) -> None:
        """Queue it."""
        ticket = self._turns.join("standard", job.tenant_id, now_us)
        self._waiting[ticket] = job
        self._came.append((ticket, job))

    def pass_on(self, now_us: int, /) -> Iterable[Job]:
        """Those whose turn has come at the present rate."""
        self._time_out(now_us)
        if now_us - self._judged_us >= self._pace.every_us:
            self._judge(now_us)
        passing = []
        while self._next_us <= now_us and (ticket := self._turns.pop(now_us)) is not None:
            job = self._waiting.pop(ticket)
            self._unanswered[job.number] = now_us
            # A pause saves up no more than one turn.
            every_us = _MINUTE_US // self._rate
            self._next_us = max(self._next_us, now_us - every_us) + every_us
            passing.append(job)
        return passing

    def first_token(self, job: Job, waited_us: int, /) -> None:
        """Note how long the server let it wait."""
        del self._unanswered[job.number]
        self._longest_us = max(self._longest_us, waited_us)

    def next_us(self) -> int | None:
        """When the next turn comes."""
        return self._next_us if self._waiting else None

    def _time_out(self, now_us: int) -> None:
        while self._came:
            ticket, job = self._came[0]
            if ticket in self._waiting:
                if now_us - job.arrival_us < self._pace.timeout_us:
                    return
                self._turns.leave(ticket)
                self._refused.append(self._waiting.pop(ticket))
            self._came.popleft()

    def _judge(self, now_us: int) -> None:
        # What is not answered yet has waited for so long at least.
        oldest_us = min(self._unanswered.values(), default=now_us)
        pressure_ppm = max(self._longest_us, now_us - oldest_us) * PPM // self._pace.wait_us
        self._rate = self._law(
            self._rate, pressure_ppm, entitled=self._pace.entitled, floor=self._pace.floor
        )
        self._judged_us, self._longest_us = now_us, 0
