"""Everything at once: threads, coroutines, a queue, budgets, grants and preemption."""

from __future__ import annotations

import asyncio
import random
import threading

from tests.unit.admission.granting import Grantor, Running, reserving
from tests.unit.admission.messages import budget_rule, decision, key_of

from sluice.admission.desk_options import DeskOptions
from sluice.admission.queues import QueueOptions
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import AdmissionRequest, Refused

LIMIT = 2000
EACH = 40


class Crowd:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = self.most = 0

    def move(self, by: int) -> None:
        with self._lock:
            self._inside += by
            self.most = max(self.most, self._inside)

    def spend(self, reservation: Reservation, drawn: random.Random) -> None:
        """Go in with a reservation, and fail now and then."""
        self.move(1)
        try:
            if drawn.random() < 0.2:
                raise RuntimeError
            reservation.commit(cost_pusd=drawn.randrange(1, 11))
        finally:
            self.move(-1)


def one(drawn: random.Random) -> AdmissionRequest:
    """A request of any priority."""
    priority = drawn.choice(("guaranteed", "standard", "batch"))
    return AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=10, priority=priority)


def test_nothing_is_lost_or_doubled_under_load() -> None:
    """After a storm nothing stays held or queued, and what was charged is what was emitted."""
    grantor = Grantor(Running(), b=LIMIT)
    options = DeskOptions(queues=QueueOptions(width=4))
    made = reserving(grantor, budget_rule(limit=LIMIT, lease_wait_ms=20), leases=options)
    queue = decision("queue", params={"queue_timeout_ms": 2000})
    made.apply(0, key_of("q"), queue)
    crowd = Crowd()

    def thread(seed: int) -> None:
        drawn = random.Random(seed)
        for _ in range(EACH):
            try:
                with made.reserve(one(drawn)) as reservation:
                    crowd.spend(reservation, drawn)
            except (Refused, RuntimeError):
                pass

    async def coroutine(seed: int) -> None:
        drawn = random.Random(seed)
        for _ in range(EACH):
            try:
                async with await made.reserve_async(one(drawn)) as reservation:
                    await asyncio.sleep(0)
                    crowd.spend(reservation, drawn)
            except (Refused, RuntimeError):
                pass

    async def loop() -> None:
        await asyncio.gather(*(coroutine(100 + n) for n in range(8)))

    threads = [threading.Thread(target=thread, args=(n,)) for n in range(8)]
    threads.append(threading.Thread(target=lambda: asyncio.run(loop())))
    for running in threads:
        running.start()
    for running in threads:
        running.join(60)
        assert not running.is_alive()
    (standing,) = made.snapshot()["budgets"]
    charged = sum(event["cost_pusd"] or 0 for event in grantor.events)
    assert (standing.committed, standing.reserved) == (charged, 0)
    assert 0 < charged <= LIMIT
    assert crowd.most <= 4, "the queue let more run at once than its width"
    (gate,) = made._desk._queues._gates.values()
    assert (gate.running, len(gate.queue), made._desk.running) == (0, 0, 0)
    assert all(account.waiting == 0 for account in made._desk.accounts)
