"""Where reservations are made: soft decisions, hard budgets all or nothing, waiting, settling."""

from __future__ import annotations

import itertools
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sluice.admission.accounts import Account, Hold, begun
from sluice.admission.decision import Decision
from sluice.admission.desk_options import DeskOptions, Point
from sluice.admission.holding import Holding, NoRoom
from sluice.admission.leases import give_up, settle
from sluice.admission.opening import fields_of
from sluice.admission.outcomes import Ending
from sluice.admission.plan import Plan, planned
from sluice.admission.publisher import Publisher
from sluice.admission.queueing import Gate
from sluice.admission.queues import QueuedOut, Queues
from sluice.admission.reservation import Reservation, interim_of
from sluice.admission.steps import STEP_LIMIT, Begun, Steps
from sluice.admission.verdict import (
    AdmissionRequest,
    Refused,
    Verdict,
    refused,
    refusing,
)
from sluice.admission.waiting import CONTROL, LEASES, Course, Wait, Waiters
from sluice.errors import SluiceError

# Named requests that are remembered after they settled; beyond it the oldest are forgotten.
MAX_SETTLED = 65_536
# Stricter actions that admit may hide a queue behind them.
_MAY_QUEUE = frozenset({"queue", "isolate"})


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
        self._holding = Holding(self._publisher, self._waiters, self._options,
                                lambda: self._point.state, self._clock)  # fmt: skip
        self._open: weakref.WeakValueDictionary[int, Reservation] = weakref.WeakValueDictionary()
        self._named: OrderedDict[tuple[str, int], Reservation] = OrderedDict()
        self._numbers = itertools.count()
        self._lost_gates: deque[Gate] = deque()
        self._lost: deque[tuple[Hold, int]] = deque()
        self._begun, self._steps = Begun(), Steps()
        self._queues = Queues(self._options.queues, self._waiters, lambda: self._point.state,
                              self._clock)  # fmt: skip
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
            if not self._point.ready:
                until = time.monotonic() + self._point.cold_left_s
                yield Wait(lambda: self._point.ready, until, CONTROL)
            verdict = self._point.admit(request)
        if not verdict.allowed:
            raise Refused(verdict)
        plan = self._planned(request, verdict)
        self._take_step(request, verdict)
        if verdict.action not in _MAY_QUEUE:
            return self._opened(plan, verdict, (yield from self._held(plan.request)))
        joined_at = self._clock()
        gate = yield from self._queued(plan.request)
        try:
            holds = yield from self._held(plan.request)
        except BaseException:
            self._leave(gate)
            raise
        waited_us = None if gate is None else max(0, self._clock() - joined_at)
        return self._opened(plan, verdict, holds, gate, waited_us)

    def _take_step(self, request: AdmissionRequest, verdict: Verdict) -> None:
        """Count a task's step where a decision limits them; further attempts are no steps."""
        if verdict.caps.max_steps_remaining is None or not request.task_id or request.attempt > 1:
            return
        now = self._clock()
        matches = self._point.state.matching(request, now)
        with self._waiters.lock:
            spent = self._steps.take(matches, request.task_id)
        if spent is not None:
            told = refused(spent, now, verdict.staleness_us)
            reason = f"task {request.task_id} has no step left: {told.reason}"
            raise self._refused(request, replace(told, action="block", reason_code=STEP_LIMIT,
                                                 reason=reason))  # fmt: skip

    def _queued(self, request: AdmissionRequest) -> Course[Gate | None]:
        try:
            return (yield from self._queues.course(request))
        except QueuedOut as out:
            raise self._refused(request, out.verdict) from None

    def _held(self, request: AdmissionRequest) -> Course[list[Hold]]:
        try:
            return (yield from self._holding.course(request))
        except NoRoom as none:
            raise self._refused(request, none.verdict) from None

    def _leave(self, gate: Gate | None) -> None:
        if gate is not None:
            with self._waiters.lock:
                self._queues.done(gate)

    def _known(self, request: AdmissionRequest) -> Reservation | None:
        if self._closed:
            raise SluiceError("this admission point is closed; make a new one")
        if request.request_id is None:
            return None
        return self._named.get((request.request_id, request.attempt))

    def _planned(self, request: AdmissionRequest, verdict: Verdict) -> Plan:
        if request.task_id is not None and self._keeps_model(request.task_id, request, verdict):
            verdict = replace(verdict, caps=replace(verdict.caps, fallback_models=()))
        plan = planned(request, verdict, self._serves)
        if plan is None:
            reason = f"no fallback model may serve it: {verdict.reason}"
            raise self._refused(request, replace(verdict, allowed=False, reason=reason))
        return plan

    def _keeps_model(self, task_id: str, request: AdmissionRequest, verdict: Verdict) -> bool:
        """Whether a task began before every decision that would change its model at a boundary."""
        now = self._clock()
        with self._waiters.lock:
            self._begun.see(task_id, now)
        if not verdict.caps.fallback_models or verdict.caps.boundary != "task":
            return False
        matches = self._point.state.matching(request, now)
        changing = [match for match in matches if match.effect.caps.fallback_models]
        with self._waiters.lock:
            return all(self._begun.before(task_id, match) for match in changing)

    def _serves(self, candidate: AdmissionRequest) -> bool:
        matches = self._point.state.matching(candidate, self._clock())
        return refusing(matches, candidate.tool_name) is None

    def _refused(self, request: AdmissionRequest, verdict: Verdict) -> Refused:
        return Refused(self._point.told(request, verdict, self._clock()))

    def _opened(self, plan: Plan, verdict: Verdict, holds: list[Hold], gate: Gate | None = None,
                queue_us: int | None = None) -> Reservation:  # fmt: skip
        began_at = begun(holds, self._clock())
        made = Reservation(self, self._options.new_id, plan, verdict, holds, began_at)
        made.gate, made.queue_us = gate, queue_us
        request, known = plan.request, made
        with self._waiters.lock:
            if request.request_id is not None:
                known = self._named.setdefault((request.request_id, request.attempt), made)
            if known is made:
                made.number = next(self._numbers)
                self._open[made.number] = made
        if known is not made:
            # Another thread asked for the same request meanwhile.
            made.release()
        return known

    # ---- for reservations

    def lose(self, reservation: Reservation) -> None:
        """Take the holds of one that was dropped; called by the garbage collector, so no lock."""
        told = reservation.interim
        if reservation.gate is not None:
            self._lost_gates.append(reservation.gate)
        self._lost.extend((hold, interim_of(hold, told)) for hold in reservation.holds)

    def tell(self) -> None:
        """Send the reports that are due; what was dropped without an end is charged in full."""
        with self._waiters.lock:
            while self._lost_gates:
                self._queues.done(self._lost_gates.popleft())
            while self._lost:
                give_up(*self._lost.popleft(), self._clock())
        self._holding.holder.tell()

    @property
    def running(self) -> int:
        """How many reservations are open."""
        return len(self._open)

    @property
    def accounts(self) -> list[Account]:
        """What is held of every ledger; the caller holds the lock."""
        return self._holding.accounts

    def settle(self, reservation: Reservation, usage: Mapping[str, Any] | None) -> bool:
        """Turn holds into what was spent, None = nothing; False if that was done before."""
        usage = self._priced(reservation, usage)
        with self._waiters.lock:
            return self._settled(reservation, usage) is not None

    def settle_later(self, reservation: Reservation, event: Mapping[str, Any]) -> None:
        """Settle by an event that could not be emitted, and emit it when that can be."""
        usage = self._priced(reservation, event)
        with self._waiters.lock:
            spent = self._settled(reservation, usage)
            if spent is None:
                return
            for account, amount in spent:
                account.untold += amount
        self._point.publish_later(event, lambda: self._told(spent))

    def _told(self, spent: list[Hold]) -> None:
        with self._waiters.lock:
            for account, amount in spent:
                account.untold -= amount

    def _priced(
        self, reservation: Reservation, usage: Mapping[str, Any] | None
    ) -> Mapping[str, Any] | None:
        price = self._options.price if reservation.holds else None
        if usage is None or price is None or usage.get("cost_pusd") is not None:
            return usage
        return {**usage, "cost_pusd": price(usage)}

    def _settled(
        self, reservation: Reservation, usage: Mapping[str, Any] | None
    ) -> list[Hold] | None:
        """What was spent of each hold; None if it had settled. The caller holds the lock."""
        if reservation.settled:
            return None
        now, told = self._clock(), reservation.interim
        spent = [Hold(hold.account, settle(hold, usage, interim_of(hold, told), now))
                 for hold in reservation.holds]  # fmt: skip
        reservation.settled = True
        if reservation.gate is not None:
            self._queues.done(reservation.gate)
        self._open.pop(reservation.number, None)
        name = (reservation.request.request_id or "", reservation.request.attempt)
        if usage is None and self._named.get(name) is reservation:
            # Nothing was used: the same request may come again.
            del self._named[name]
        while len(self._named) > MAX_SETTLED:
            self._named.popitem(last=False)
        if reservation.holds:
            self._waiters.wake(LEASES)
        return spent

    def publish(self, event: Mapping[str, Any]) -> None:
        """Emit the event of a reservation's end."""
        self._publisher.emit(event)

    def extend(self, reservation: Reservation, amounts: Mapping[str, int]) -> None:
        """Hold more on the accounts of these units, all or nothing; raises Refused."""
        try:
            reservation.holds = self._holding.extend(reservation.holds, amounts)
        except NoRoom as none:
            raise self._refused(reservation.request, none.verdict) from None

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
            "usage_source": "provider", "started_at": reservation.started_at,
            **usage, **reservation.fields(usage),
            "outcome": ending.outcome, "error_type": ending.error_type,
        }  # fmt: skip

    # ---- the rest of its life

    def changed(self, key: bytes) -> None:
        """A decision was made anew or lifted; the caller holds the lock."""
        self._queues.changed(key)

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
        self._holding.holder.close()

    def after_fork(self, waiters: Waiters) -> None:
        """In a forked child: no leases, and the parent's reservations are the parent's."""
        for reservation in (*self._open.values(), *self._named.values()):
            reservation.disown()
        self._waiters = waiters
        self._begin()
