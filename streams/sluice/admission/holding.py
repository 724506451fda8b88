"""Holding what requests need of hard budgets: at once, after a wait, or by a fail rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sluice.admission.accounts import Account, Hold
from sluice.admission.budget_words import doubtful, exhausted, unknown
from sluice.admission.control_state import ControlState
from sluice.admission.desk_options import DeskOptions
from sluice.admission.holder import Holder
from sluice.admission.leases import Claim, Lack, claim_on, claims_of, settle
from sluice.admission.publisher import Publisher
from sluice.admission.verdict import AdmissionRequest, Verdict
from sluice.admission.waiting import LEASES, Course, Wait, Waiters

# A request that waits for a lease asks again after so long, in case it was not heard.
_ASK_AGAIN_S = 0.025


class NoRoom(Exception):
    """A hard budget lets a request not in; `verdict` says which, and why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Holding:
    """Holds amounts under the leases of one process; `waiters` has the lock that guards them."""

    def __init__(self, publisher: Publisher, waiters: Waiters, options: DeskOptions,
                 state: Callable[[], ControlState], clock: Callable[[], int]) -> None:  # fmt: skip
        self._publisher = publisher
        self._waiters = waiters
        self._state = state
        self._clock = clock
        self._stale_after_us = options.stale_after_ms * 1000
        self.holder = Holder(publisher, options.holder_slot, waiters.lock, self._grants, clock)

    @property
    def accounts(self) -> list[Account]:
        """What is held of every ledger; the caller holds the lock."""
        return list(self.holder.leases.accounts.values())

    def course(self, request: AdmissionRequest) -> Course[list[Hold]]:
        """Hold what a request needs of every hard budget that it meets, all or nothing.

        Waits for leases where there is too little room. Raises NoRoom.
        """
        state = self._state()
        if not state.budgets.guarding:
            return []
        now = self._clock()
        claims, doubts = claims_of(state.budgets.guarding, request, now, self._troubles(now))
        for doubt in doubts:
            # Of a lease that is in force the limit is known, however silent the control topic is.
            leased = doubt.situation == "control_stale" and doubt.rule.hard
            if not leased and doubt.rule.fails(doubt.situation) == "closed":
                raise NoRoom(doubtful(doubt, state.staleness(now)))
        if not claims:
            return []
        with self._waiters.lock:
            holds, lacks = self.holder.leases.hold(claims, state.leases, now)
            low = [h.account for h in holds if h.account.is_due(now)]
        if not lacks:
            if low:
                self.holder.tell(low)
            return holds
        return (yield from self._wait(claims, lacks))

    def _troubles(self, now: int) -> list[str]:
        troubles = ["publisher_down"] if self._publisher.down else []
        return [*troubles, "control_stale"] if self._stale(now) else troubles

    def _stale(self, now: int) -> bool:
        staleness_us = self._state().staleness(now)
        return staleness_us is not None and staleness_us > self._stale_after_us

    def _wait(self, claims: Sequence[Claim], lacks: list[Lack]) -> Course[list[Hold]]:
        until = time.monotonic() + max(lack.claim.rule.lease_wait_ms for lack in lacks) / 1000
        waiting = [Hold(lack.account, lack.claim.amount) for lack in lacks]
        found: list[Hold] = []

        def ready() -> bool:
            held, now_lacks = self.holder.leases.hold(claims, self._grants(), self._clock())
            found[:], lacks[:] = held, now_lacks
            return not now_lacks

        self._count_waiting(waiting, Account.wait)
        try:
            while True:
                self.holder.tell([account for account, _ in waiting])
                again = min(until, time.monotonic() + _ASK_AGAIN_S)
                if (yield Wait(ready, again, LEASES)):
                    return found
                if again >= until:
                    break
        except BaseException:
            # Told to stop between having it and handing it on.
            self.give_back(found)
            raise
        finally:
            self._count_waiting(waiting, Account.wait_over)
        return self._in_doubt(claims, lacks)

    def _count_waiting(self, waiting: Sequence[Hold], note: Callable[[Account, int], None]) -> None:
        with self._waiters.lock:
            for account, amount in waiting:
                note(account, amount)

    def _grants(self) -> Mapping[bytes, Mapping[str, Any]]:
        return self._state().leases

    def _in_doubt(self, claims: Sequence[Claim], lacks: Sequence[Lack]) -> list[Hold]:
        """What fail rules say where leases had no room in time."""
        now = self._clock()
        staleness_us = self._state().staleness(now)
        # While nobody can be asked, what is left of a lease is not all there is.
        trouble = next(iter(self._troubles(now)), None)
        spent = [lack for lack in lacks if lack.room is not None and trouble is None]
        if spent:
            raise NoRoom(exhausted(spent, staleness_us))
        for lack in lacks:
            situation = trouble or _situation(lack)
            if lack.claim.rule.fails(situation) == "closed":
                raise NoRoom(unknown(lack, situation, staleness_us))
        with self._waiters.lock:
            return self.holder.leases.hold_anyway(claims, self._grants(), now)

    def extend(self, holds: Sequence[Hold], amounts: Mapping[str, int]) -> list[Hold]:
        """Hold more on the accounts of these units, all or nothing, without waiting.

        Budgets of other units are not asked. Raises NoRoom.
        """
        now = self._clock()
        grown = [(hold, amounts.get(hold.account.key.unit, 0)) for hold in holds]
        with self._waiters.lock:
            claims = [claim_on(hold.account, more) for hold, more in grown if more]
            _, lacks = self.holder.leases.hold(claims, self._grants(), now)
        if lacks:
            raise NoRoom(exhausted(lacks, self._state().staleness(now)))
        return [hold._replace(amount=hold.amount + more) for hold, more in grown]

    def give_back(self, holds: Sequence[Hold]) -> None:
        """Release what nobody used."""
        with self._waiters.lock:
            for hold in holds:
                settle(hold, None, 0, self._clock())
            self._waiters.wake(LEASES)


def _situation(lack: Lack) -> str:
    return "lease_gone" if lack.account.ever_granted else "cold_start"
