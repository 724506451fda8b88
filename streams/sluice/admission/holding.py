"""Holding what requests need of hard budgets: at once, after a wait, or by a fail rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sluice.admission.accounts import Account, Hold
from sluice.admission.budget_words import doubtful, exhausted, unknown
from sluice.admission.control_state import ControlState
from sluice.admission.desk_options import DeskOptions
from sluice.admission.holder import Holder
from sluice.admission.leases import Claim, Lack, Troubles, claim_on, claims_of, settle
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

    def course(self, request: AdmissionRequest, until: float | None = None) -> Course[list[Hold]]:
        """Hold what a request needs of every hard budget that it meets, all or nothing.

        Waits for leases where there is too little room, to `until` (seconds of the monotonic clock)
        or as long as the budgets let it. Raises NoRoom.
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
                raise NoRoom(doubtful(doubt, state.silence_of(doubt.rule, now)))
        if not claims:
            return []
        with self._waiters.lock:
            holds, lacks = self.holder.leases.hold(claims, state.leases, now)
            low = [h.account for h in holds if h.account.is_due(now)]
        if not lacks:
            if low:
                self.holder.tell(low)
            return holds
        if until is None:
            wait_ms = max(lack.claim.rule.lease_wait_ms for lack in lacks)
            until = time.monotonic() + wait_ms / 1000
        found = yield from self._wait(claims, lacks, until)
        if found is not None:
            return found
        if _ended(claims, self._clock()):
            # What was waited for cannot come any more; the next period has a limit of its own.
            return (yield from self.course(request, until))
        return self._in_doubt(claims, lacks)

    def _troubles(self, now: int) -> Troubles:
        state = self._state()
        down = ("publisher_down",) if self._publisher.down else ()
        silences = state.staleness(now), state.across_staleness(now)
        return Troubles(*((*down, "control_stale") if self._stale(us) else down for us in silences))

    def _stale(self, silence_us: int | None) -> bool:
        return silence_us is not None and silence_us > self._stale_after_us

    def _wait(
        self, claims: Sequence[Claim], lacks: list[Lack], until: float
    ) -> Course[list[Hold] | None]:
        """What is held in the end; None where there was no room in time, or a period ended."""
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
                if again >= until or _ended(claims, self._clock()):
                    return None
        except BaseException:
            # Told to stop between having it and handing it on.
            self.give_back(found)
            raise
        finally:
            self._count_waiting(waiting, Account.wait_over)

    def _count_waiting(self, waiting: Sequence[Hold], note: Callable[[Account, int], None]) -> None:
        with self._waiters.lock:
            for account, amount in waiting:
                note(account, amount)

    def _grants(self) -> Mapping[bytes, Mapping[str, Any]]:
        return self._state().leases

    def _in_doubt(self, claims: Sequence[Claim], lacks: Sequence[Lack]) -> list[Hold]:
        """What fail rules say where leases had no room in time."""
        now = self._clock()
        state, troubles = self._state(), self._troubles(now)
        # While nobody can be asked, what is left of a lease is not all there is.
        spent = [lack for lack in lacks
                 if lack.room is not None and not troubles.of(lack.claim.rule)]  # fmt: skip
        if spent:
            raise NoRoom(exhausted(spent, state.silence_of(spent[0].claim.rule, now)))
        for lack in lacks:
            rule = lack.claim.rule
            situation = next(iter(troubles.of(rule)), _situation(lack))
            if rule.fails(situation) == "closed":
                raise NoRoom(unknown(lack, situation, state.silence_of(rule, now)))
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
            silence_us = self._state().silence_of(lacks[0].claim.rule, now)
            raise NoRoom(exhausted(lacks, silence_us))
        return [hold._replace(amount=hold.amount + more) for hold, more in grown]

    def give_back(self, holds: Sequence[Hold]) -> None:
        """Release what nobody used."""
        with self._waiters.lock:
            for hold in holds:
                settle(hold, None, 0, self._clock())
            self._waiters.wake(LEASES)


def _ended(claims: Iterable[Claim], now: int) -> bool:
    """Whether a period that was claimed is over."""
    return any(claim.span.end is not None and now >= claim.span.end for claim in claims)


def _situation(lack: Lack) -> str:
    return "lease_gone" if lack.account.ever_granted else "cold_start"
