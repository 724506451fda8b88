"""Where reservations are made: soft decisions, hard budgets all or nothing, waiting, settling."""

from __future__ import annotations

import itertools
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from uuid_utils import uuid7

from sluice.admission.accounts import Account, Hold
from sluice.admission.budget_words import doubtful, exhausted, unknown
from sluice.admission.control_state import ControlState
from sluice.admission.decision import Decision
from sluice.admission.holder import Holder
from sluice.admission.leases import Claim, Lack, claim_on, claims_of, give_up, settle
from sluice.admission.opening import fields_of
from sluice.admission.outcomes import Ending
from sluice.admission.plan import Plan, planned
from sluice.admission.publisher import Publisher
from sluice.admission.reservation import Reservation, interim_of
from sluice.admission.verdict import (
    AdmissionRequest,
    Refused,
    Verdict,
    refusing,
)
from sluice.admission.waiting import Course, Wait, Waiters
from sluice.errors import SluiceError

# Named requests that are remembered after they settled; beyond it the oldest are forgotten.
MAX_SETTLED = 65_536
# A request that waits for a lease asks again after so long, in case it was not heard.
_ASK_AGAIN_S = 0.025

Price = Callable[[Mapping[str, Any]], int | None]


class Point(Protocol):
    """The admission point behind a desk."""

    @property
    def state(self) -> ControlState:
        """What the control topic says."""

    def admit(self, request: AdmissionRequest) -> Verdict:
        """Decide about one request by the decisions in force."""

    def told(self, request: AdmissionRequest, verdict: Verdict, now: int) -> Verdict:
        """Count a refusal."""

    def publish_later(self, event: Mapping[str, Any]) -> None:
        """Keep an event that could not be emitted, and try again."""


@dataclass(frozen=True, slots=True)
class DeskOptions:
    """`holder_slot`: the place of this process that its successor takes over (None: its source).

    `price` tells the pico-USD of a usage event, by the price book that the meter uses; without
    it, and without a cost in the usage, a request is charged its estimate here. The control topic
    counts as stale after `stale_after_ms`.
    """

    holder_slot: str | None = None
    price: Price | None = None
    stale_after_ms: int = 30_000
    new_id: Callable[[], str] = lambda: str(uuid7())


class Desk:
    """Gives out reservations and settles them; every method may be called from any thread."""

    def __init__(self, point: Point, publisher: Publisher, waiters: Waiters, options: DeskOptions,
                 clock: Callable[[], int]) -> None:  # fmt: skip
        self._point = point
        self._publisher = publisher
        self._waiters = waiters
        self._options = options
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self.holder = Holder(self._publisher, self._options.holder_slot, self._waiters.lock,
                             lambda: self._point.state.leases, self._clock)  # fmt: skip
        self._open: weakref.WeakValueDictionary[int, Reservation] = weakref.WeakValueDictionary()
        self._named: OrderedDict[tuple[str, int], Reservation] = OrderedDict()
        self._numbers = itertools.count()
        self._lost: deque[Hold] = deque()
        self._closed = False

    # ---- reserving

    def course(
        self, request: AdmissionRequest, verdict: Verdict | None = None
    ) -> Course[Reservation]:
        """How a request is reserved, wherever it has to wait; raises Refused."""
        known = self._known(request)
        if known is not None:
            return known
        if verdict is None:
            verdict = self._point.admit(request)
        if not verdict.allowed:
            raise Refused(verdict)
        plan = self._planned(request, verdict)
        holds = yield from self._held(plan.request)
        return self._opened(plan, verdict, holds)

    def _known(self, request: AdmissionRequest) -> Reservation | None:
        if self._closed:
            raise SluiceError("this admission point is closed; make a new one")
        if request.request_id is None:
            return None
        return self._named.get((request.request_id, request.attempt))

    def _planned(self, request: AdmissionRequest, verdict: Verdict) -> Plan:
        plan = planned(request, verdict, self._serves)
        if plan is None:
            reason = f"no fallback model may serve it: {verdict.reason}"
            raise self._refused(request, replace(verdict, allowed=False, reason=reason))
        return plan

    def _serves(self, candidate: AdmissionRequest) -> bool:
        matches = self._point.state.matching(candidate, self._clock())
        return refusing(matches, candidate.tool_name) is None

    def _refused(self, request: AdmissionRequest, verdict: Verdict) -> Refused:
        return Refused(self._point.told(request, verdict, self._clock()))

    def _held(self, request: AdmissionRequest) -> Course[list[Hold]]:
        state, now = self._point.state, self._clock()
        if not state.budgets.guarding:
            return []
        claims, doubts = claims_of(state.budgets.guarding, request, now, self._troubles(now))
        for doubt in doubts:
            # Of a lease that is in force the limit is known, however silent the control topic is.
            leased = doubt.situation == "control_stale" and doubt.rule.hard
            if not leased and doubt.rule.fails(doubt.situation) == "closed":
                raise self._refused(request, doubtful(doubt, state.staleness(now)))
        if not claims:
            return []
        with self._waiters.lock:
            holds, lacks = self.holder.leases.hold(claims, state.leases, now)
            low = [h.account for h in holds if h.account.is_due(now)]
        if not lacks:
            if low:
                self.holder.tell(low)
            return holds
        return (yield from self._wait(request, claims, lacks))

    def _troubles(self, now: int) -> list[str]:
        troubles = ["publisher_down"] if self._publisher.down else []
        return [*troubles, "control_stale"] if self._stale(now) else troubles

    def _stale(self, now: int) -> bool:
        staleness_us = self._point.state.staleness(now)
        return staleness_us is not None and staleness_us > self._options.stale_after_ms * 1000

    def _wait(
        self, request: AdmissionRequest, claims: Sequence[Claim], lacks: list[Lack]
    ) -> Course[list[Hold]]:
        until = time.monotonic() + max(lack.claim.rule.lease_wait_ms for lack in lacks) / 1000
        waiting = [Hold(lack.account, lack.claim.amount) for lack in lacks]
        found: list[Hold] = []

        def ready() -> bool:
            held, now_lacks = self.holder.leases.hold(claims, self._grants(), self._clock())
            found[:], lacks[:] = held, now_lacks
            return not now_lacks

        self._count_waiting(waiting, 1)
        try:
            while True:
                self.holder.tell([account for account, _ in waiting])
                again = min(until, time.monotonic() + _ASK_AGAIN_S)
                if (yield Wait(ready, again)):
                    return found
                if again >= until:
                    break
        finally:
            self._count_waiting(waiting, -1)
        return self._in_doubt(request, claims, lacks)

    def _count_waiting(self, waiting: Sequence[Hold], sign: int) -> None:
        with self._waiters.lock:
            for account, amount in waiting:
                account.waiting += sign * amount

    def _grants(self) -> Mapping[bytes, Mapping[str, Any]]:
        return self._point.state.leases

    def _in_doubt(
        self, request: AdmissionRequest, claims: Sequence[Claim], lacks: Sequence[Lack]
    ) -> list[Hold]:
        """What fail rules say where leases had no room in time."""
        now = self._clock()
        staleness_us = self._point.state.staleness(now)
        # While nobody can be asked, what is left of a lease is not all there is.
        trouble = next(iter(self._troubles(now)), None)
        spent = [lack for lack in lacks if lack.room is not None and trouble is None]
        if spent:
            raise self._refused(request, exhausted(spent, staleness_us))
        for lack in lacks:
            situation = trouble or _situation(lack)
            if lack.claim.rule.fails(situation) == "closed":
                raise self._refused(request, unknown(lack, situation, staleness_us))
        with self._waiters.lock:
            return self.holder.leases.hold_anyway(claims, self._grants(), now)

    def _opened(self, plan: Plan, verdict: Verdict, holds: list[Hold]) -> Reservation:
        new_id = self._options.new_id
        made = Reservation(self, new_id(), new_id(), plan, verdict, holds, self._clock())
        request = plan.request
        with self._waiters.lock:
            if request.request_id is not None:
                known = self._named.setdefault((request.request_id, request.attempt), made)
                if known is not made:
                    self._give_back(holds)
                    return known
            made.number = next(self._numbers)
            self._open[made.number] = made
        return made

    def _give_back(self, holds: Sequence[Hold]) -> None:
        for hold in holds:
            settle(hold, None, 0, self._clock())

    # ---- for reservations

    def lose(self, reservation: Reservation) -> None:
        """Take the holds of one that was dropped; called by the garbage collector, so no lock."""
        self._lost.extend(reservation.holds)

    def tell(self) -> None:
        """Send the reports that are due; what was dropped without an end is charged in full."""
        with self._waiters.lock:
            while self._lost:
                give_up(self._lost.popleft(), self._clock())
        self.holder.tell()

    @property
    def running(self) -> int:
        """How many reservations are open."""
        return len(self._open)

    @property
    def accounts(self) -> list[Account]:
        """What is held of every ledger; the caller holds the lock."""
        return list(self.holder.leases.accounts.values())

    def settle(self, reservation: Reservation, usage: Mapping[str, Any] | None) -> bool:
        """Turn holds into what was spent, None = nothing; False if that was done before."""
        price = self._options.price
        if usage is not None and price is not None and usage.get("cost_pusd") is None:
            usage = {**usage, "cost_pusd": price(usage)}
        with self._waiters.lock:
            if reservation.settled:
                return False
            now = self._clock()
            for hold in reservation.holds:
                settle(hold, usage, interim_of(hold, reservation.interim), now)
            reservation.settled = True
            self._open.pop(reservation.number, None)
            while len(self._named) > MAX_SETTLED:
                self._named.popitem(last=False)
            self._waiters.wake()
        return True

    def publish(self, event: Mapping[str, Any]) -> None:
        """Emit the event of a reservation's end."""
        self._publisher.emit(event)

    def publish_later(self, event: Mapping[str, Any]) -> None:
        """Keep an event that could not be emitted, and try again."""
        self._point.publish_later(event)

    def extend(self, reservation: Reservation, amounts: Mapping[str, int]) -> None:
        """Hold more on the accounts of these units, all or nothing; raises Refused.

        Budgets of other units are not asked, nor is anything waited for.
        """
        now = self._clock()
        grown = [(hold, amounts.get(hold.account.key.unit, 0)) for hold in reservation.holds]
        with self._waiters.lock:
            claims = [claim_on(hold.account, more) for hold, more in grown if more]
            _, lacks = self.holder.leases.hold(claims, self._grants(), now)
            if not lacks:
                reservation.holds = [hold._replace(amount=hold.amount + more)
                                     for hold, more in grown]  # fmt: skip
        if lacks:
            verdict = exhausted(lacks, self._point.state.staleness(now))
            raise self._refused(reservation.request, verdict)

    def progressed(self, reservation: Reservation, usage: Mapping[str, Any]) -> None:
        """Note what was spent so far."""
        with self._waiters.lock:
            if reservation.settled:
                return
            for hold in reservation.holds:
                before = interim_of(hold, reservation.interim)
                hold.account.interim += interim_of(hold, usage) - before
            reservation.interim = usage

    def event_of(
        self, reservation: Reservation, usage: Mapping[str, Any], ending: Ending
    ) -> dict[str, Any]:
        """The usage event of a reservation that ends like this."""
        request, ended_at = reservation.request, max(self._clock(), reservation.started_at)
        tool = request.tool_name is not None
        return {
            **fields_of(request, reservation.verdict), "event_id": reservation.event_id,
            "event_type": "tool" if tool else "inference", "attempt": request.attempt,
            "operation_name": "execute_tool" if tool else "chat", "provider_name": "",
            "agent_name": request.agent_name, "workflow_name": request.workflow_name,
            "occurred_at": ended_at, "latency_us": ended_at - reservation.started_at,
            "usage_source": "provider", "priority": request.priority,
            "started_at": reservation.started_at, **usage, **reservation.fields(usage),
            "outcome": ending.outcome, "error_type": ending.error_type,
        }  # fmt: skip

    # ---- the rest of its life

    def preempt(self, decision: Decision, verdict: Verdict) -> None:
        """Tell every open reservation of the decision's scope to stop."""
        with self._waiters.lock:
            running = list(self._open.values())
        for reservation in running:
            request = reservation.request
            if not reservation.settled and not reservation.stop and all(
                getattr(request, name) == value for name, value in decision.scope
            ):  # fmt: skip
                reservation.stop_now(verdict)

    def close(self) -> None:
        """Close the leases; what still runs is charged when its usage arrives."""
        self._closed = True
        self.holder.close()

    def after_fork(self, waiters: Waiters) -> None:
        """In a forked child: no leases, and the parent's reservations are the parent's."""
        for reservation in (*self._open.values(), *self._named.values()):
            reservation.disown()
        self._waiters = waiters
        self._begin()


def _situation(lack: Lack) -> str:
    return "lease_gone" if lack.account.ever_granted else "cold_start"
