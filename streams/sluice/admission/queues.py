"""Queues of queue decisions: who waits, how long, and what is told to whoever is not let in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sluice.admission.control_state import ControlState, Match
from sluice.admission.queueing import Gate, Ticket
from sluice.admission.verdict import AdmissionRequest, Verdict, refused, strictest
from sluice.admission.waiting import Course, Wait, Waiters

QUEUE_FULL = "QUEUE_FULL"
QUEUE_TIMEOUT = "QUEUE_TIMEOUT"
# Where a decision names neither.
DEFAULT_DEPTH = 1000
DEFAULT_TIMEOUT_MS = 30_000
_LOOK_AGAIN_S = 0.02


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """`width`: how many run at once under a queue decision that names no rate.

    `weights` are shares of tenants, 1 where none is named.
    """

    width: int = 8
    weights: Mapping[str, int] | None = None


class QueuedOut(Exception):
    """A request was not let in in time; `verdict` says so."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Queues:
    """One gate per queue decision; `waiters` has the lock that guards them."""

    def __init__(self, options: QueueOptions, waiters: Waiters, state: Callable[[], ControlState],
                 clock: Callable[[], int]) -> None:  # fmt: skip
        self._options = options
        self._waiters = waiters
        self._state = state
        self._clock = clock
        self._gates: dict[bytes, Gate] = {}

    def course(self, request: AdmissionRequest) -> Course[Gate | None]:
        """Wait until the request's turn comes; the gate counts it until `done`.

        None where no decision queues it. Raises QueuedOut.
        """
        now = self._clock()
        queueing = [m for m in self._state().matching(request, now) if m.effect.action == "queue"]
        if not queueing:
            return None
        match = strictest(queueing)
        key = match.decision.key
        gate, ticket = self._join(match, request, now)
        until = self._until(match, request, now)
        came = False
        try:
            # The more there are who look, the more seldom each has to.
            look_again_s = min(0.25, _LOOK_AGAIN_S + len(gate.queue) / 10_000)
            yield Wait(lambda: self._moved(key, gate, ticket), until, ticket, look_again_s)
            came = True
        finally:
            granted = self._stepped_off(gate, ticket, used=came)
        if not granted:
            raise QueuedOut(self._out(match, QUEUE_TIMEOUT, "its turn did not come in time"))
        return gate

    def _stepped_off(self, gate: Gate, ticket: Ticket, *, used: bool) -> bool:
        """End a wait; a turn that nobody uses any more goes to the next. Whether it came."""
        with self._waiters.lock:
            if not ticket.granted:
                gate.queue.leave(ticket)
            elif not used:
                self.done(gate)
            return ticket.granted

    def _join(self, match: Match, request: AdmissionRequest, now: int) -> tuple[Gate, Ticket]:
        caps = match.effect.caps
        depth = DEFAULT_DEPTH if caps.queue_depth is None else caps.queue_depth
        with self._waiters.lock:
            gate = self._gates.get(match.decision.key)
            if gate is None:
                gate = self._gates[match.decision.key] = Gate(self._options.weights)
            ticket = gate.queue.join(caps.priority or request.priority, request.tenant_id, now)
            self._advance(match.decision.key, gate)
            if not ticket.granted and len(gate.queue) > depth:
                gate.queue.leave(ticket)
                raise QueuedOut(self._out(match, QUEUE_FULL, f"{depth} requests wait already"))
        return gate, ticket

    def _until(self, match: Match, request: AdmissionRequest, now: int) -> float:
        timeout_ms = match.effect.caps.queue_timeout_ms
        wait_us = (DEFAULT_TIMEOUT_MS if timeout_ms is None else timeout_ms) * 1000
        if request.deadline_at is not None:
            wait_us = min(wait_us, request.deadline_at - now)
        return time.monotonic() + max(0, wait_us) / 1e6

    def _moved(self, key: bytes, gate: Gate, ticket: Ticket) -> bool:
        self._advance(key, gate)
        return ticket.granted

    def _advance(self, key: bytes, gate: Gate) -> None:
        """Let go who may by now; the caller holds the lock."""
        now = self._clock()
        held = self._state().decisions.get(key)
        effect = None if held is None or held.shadow else held.effect_at(now)
        lifted = effect is None or effect.action != "queue"
        pace = None if effect is None else effect.pace
        for ticket in gate.move(pace, self._options.width, now, lifted=lifted):
            self._waiters.wake(ticket)

    def _out(self, match: Match, code: str, why: str) -> Verdict:
        verdict = refused(match, self._clock(), self._state().staleness(self._clock()))
        wait_ms = verdict.retry_after_ms or match.effect.caps.queue_timeout_ms or DEFAULT_TIMEOUT_MS
        return Verdict(
            False, "queue", code, f"{why}: {verdict.reason}", verdict.decision_id,
            verdict.policy_id, verdict.policy_version, wait_ms, staleness_us=verdict.staleness_us,
        )  # fmt: skip

    def done(self, gate: Gate) -> None:
        """A request that came through has ended; the caller holds the lock."""
        gate.running -= 1
        for key, one in list(self._gates.items()):
            if one is gate:
                self._advance(key, gate)
            # A pace is kept as long as its decision stands.
            if not (one.running or one.queue) and key not in self._state().decisions:
                del self._gates[key]

    def changed(self, key: bytes) -> None:
        """A decision was made anew or lifted; the caller holds the lock."""
        gate = self._gates.get(key)
        if gate is not None:
            self._advance(key, gate)
