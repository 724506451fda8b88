"""The admission point: answers from memory whether a request may go on, and says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sluice.admission.background import watch_forks
from sluice.admission.control_state import Applied, ControlState, Match
from sluice.admission.decision import CONDITIONS
from sluice.admission.desk import Desk
from sluice.admission.desk_options import DeskOptions
from sluice.admission.outbox import Outbox
from sluice.admission.preemption import Preemption
from sluice.admission.publisher import Publisher
from sluice.admission.rate import Buckets, Shares
from sluice.admission.reporting import Emitter
from sluice.admission.reservation import Reservation
from sluice.admission.sentences import explain
from sluice.admission.standing import Explanation, standings
from sluice.admission.verdict import (
    AdmissionRequest,
    Verdict,
    admitted,
    limits,
    refused,
    refusing,
    strictest,
    together,
    tool_request,
    unread,
    unrestricted,
)
from sluice.admission.waiting import LEASES, Waiters

REPORT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What a point does before it has read the control topic.

    Requests wait until `wait_ms` after the point was made, later ones not at all; `then` admits
    ("open") or refuses with CONTROL_STALE ("closed").
    """

    wait_ms: int = 5000
    then: Literal["open", "closed"] = "closed"


COLD_START = ColdStart()


def wall_clock() -> int:
    """Now in µs UTC."""
    return time.time_ns() // 1000


class AdmissionPoint:
    """Follows decisions and answers `admit`; every method may be called from any thread.

    `state` is what was read of the control topic so far; without it the point is cold until
    `adopt`. Without an `emitter` it reports nothing. `carries_out` names the conditions that the
    gateway sees to. Rate limits count in this process only.
    """

    def __init__(
        self,
        state: ControlState | None = None,
        emitter: Emitter | None = None,
        *,
        source: str = "admission",
        clock: Callable[[], int] = wall_clock,
        cold_start: ColdStart = COLD_START,
        carries_out: Collection[str] = CONDITIONS,
        leases: DeskOptions | None = None,
    ) -> None:
        self._carries_out = frozenset(carries_out)
        self._publisher = Publisher(emitter, source)
        self._state = self.empty_state() if state is None else state
        self._clock = clock
        self._waiters = Waiters()
        self._desk = Desk(self, self._publisher, self._waiters, leases or DeskOptions(), clock)
        self._cold_start = cold_start
        self._made_at = clock()
        self._buckets = Buckets()
        self._shares = Shares()
        self._preemption = Preemption(self._desk.preempt)
        self._outbox = Outbox(self._publisher, source)
        self._read = threading.Event()
        if state is not None:
            self._read.set()
        watch_forks(self)

    # ---- answering

    def admit(self, request: AdmissionRequest) -> Verdict:
        """Decide about one request, from memory; takes rate tokens only where nothing refuses.

        Blocks only during a cold start that waits; an async gateway awaits `wait_ready` in a thread
        before it serves.
        """
        now = self._clock()
        if not self._read.is_set():
            return self._admit_cold(request, now)
        return self._admit(request, now)

    def _admit_cold(self, request: AdmissionRequest, now: int) -> Verdict:
        if self._read.wait(self.cold_left_s):
            return self._admit(request, self._clock())
        verdict = unread(
            allowed=self._cold_start.then == "open", staleness_us=self._state.staleness(now)
        )
        return self.told(request, verdict, now)

    def _admit(self, request: AdmissionRequest, now: int) -> Verdict:
        state = self._state
        staleness_us = state.staleness(now)
        matches = state.matching(request, now)
        if not matches:
            return unrestricted(staleness_us)
        verdict = self._judge(request, matches, now, staleness_us)
        return verdict if verdict.allowed else self.told(request, verdict, now)

    def _judge(
        self, request: AdmissionRequest, matches: list[Match], now: int, staleness_us: int | None
    ) -> Verdict:
        combined = together(matches)
        if combined.lets_all:
            return admitted(matches, combined, staleness_us)
        refusal = refusing(matches, request.tool_name) if combined.may_refuse else None
        if refusal is None and combined.drops:
            refusal = self._dropped(matches)
        if refusal is not None:
            return refused(refusal, now, staleness_us)
        if combined.limits:
            with self._waiters.lock:
                shortage = self._buckets.take(limits(matches), now)
            if shortage is not None:
                (short,) = (m for m in matches if m.decision.key == shortage.key)
                return refused(short, now, staleness_us, shortage.wait_us)
        return admitted(matches, combined, staleness_us)

    def _dropped(self, matches: list[Match]) -> Match | None:
        shares = [match for match in matches if match.effect.drop_ppm]
        if not shares:
            return None
        with self._waiters.lock:
            found = [m for m in shares if self._shares.drops(m.decision.key, m.effect.drop_ppm)]
        return strictest(found) if found else None

    def told(self, request: AdmissionRequest, verdict: Verdict, now: int) -> Verdict:
        """Count a refusal for the next report; returns the verdict."""
        if not verdict.allowed and self._publisher.emits:
            with self._waiters.lock:
                self._outbox.refused(request, verdict, now)
        return verdict

    # ---- reserving

    def reserve(self, request: AdmissionRequest, verdict: Verdict | None = None) -> Reservation:
        """Let a request in under every decision and hard budget that it meets, or raise Refused.

        Waits on this thread where a budget's lease has to be asked for, at most its
        `lease_wait_ms`. `verdict` is what `admit` said, if it was asked already. The same
        (request_id, attempt) gives the same reservation.
        """
        return self._waiters.run(self._desk.course(request, verdict))

    async def reserve_async(
        self, request: AdmissionRequest, verdict: Verdict | None = None
    ) -> Reservation:
        """`reserve` that does not hold up the event loop while it waits."""
        return await self._waiters.run_async(self._desk.course(request, verdict))

    def admit_tool(
        self, request: AdmissionRequest, tool_name: str, *, estimated_cost_pusd: int | None = None
    ) -> Reservation:
        """`reserve` for a tool call under the identities of `request`.

        In an async gateway: `reserve_async(tool_request(...))`.
        """
        return self.reserve(tool_request(request, tool_name, estimated_cost_pusd))

    # ---- following

    def now(self) -> int:
        """The point's clock, µs UTC."""
        return self._clock()

    def empty_state(self) -> ControlState:
        """A state to read the control topic into, for `adopt`."""
        return ControlState(self._carries_out, self._publisher.holder)

    def adopt(self, state: ControlState) -> None:
        """Answer from `state` from now on; its reader has seen the whole topic."""
        with self._waiters.lock:
            self._state = state
            self._buckets.keep_only(state.decisions.keys())
            self._shares.keep_only(state.decisions.keys())
            self._read.set()
            self._waiters.wake_all()
        self._preemption.note(list(state.decisions.values()), state, self._clock())

    def apply(
        self, partition: int, key: bytes | None, value: bytes | None, *, live: bool = True
    ) -> Applied | None:
        """Take one message of the control topic; `live`: it was published after the snapshot."""
        now = self._clock()
        with self._waiters.lock:
            applied = self._state.apply(partition, key, value, now)
            if applied is not None:
                self._note(applied, now, live=live)
        if applied is not None and applied.kind == "decision" and applied.decision is not None:
            self._preemption.note((applied.decision,), self._state, now)
        return applied

    def _note(self, applied: Applied, now: int, *, live: bool) -> None:
        if applied.kind == "lifted":
            self._buckets.drop(applied.key)
        if applied.kind in ("lease", "budget", "lifted"):
            self._waiters.wake(LEASES)
        if applied.kind in ("decision", "lifted"):
            self._desk.changed(applied.key)
        decision = applied.decision
        if applied.kind != "decision" or decision is None or decision.shadow:
            return
        if live:
            self._outbox.applied(decision, now)

    def expect(self, partitions: Collection[int]) -> None:
        """Count the silence of these source partitions from now on."""
        with self._waiters.lock:
            self._state.expect(partitions, self._clock())

    # ---- telling

    @property
    def ready(self) -> bool:
        """Whether the control topic was read to its end once."""
        return self._read.is_set()

    @property
    def cold_left_s(self) -> float:
        """How long requests still wait for that, seconds."""
        whole_us = self._cold_start.wait_ms * 1000
        return min(max(0, self._made_at + whole_us - self._clock()), whole_us) / 1e6

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until `ready`; False if it took longer."""
        return self._read.wait(timeout_s)

    @property
    def state(self) -> ControlState:
        """What the control topic says."""
        return self._state

    def staleness(self, now: int | None = None) -> int | None:
        """µs since the longest silent source partition was heard; None before any is known."""
        return self._state.staleness(self._clock() if now is None else now)

    def explain(self, scope: Mapping[str, str | None]) -> Explanation:
        """Every decision and budget that can meet a request of `scope`, with a sentence each."""
        with self._waiters.lock:
            decisions = list(self._state.decisions.values())
            rules = list(self._state.budgets.in_force.values())
            budgets = list(standings(rules, self._desk.accounts, self._clock(), scope))
        return Explanation(explain(decisions, scope, self._clock()), budgets)

    def snapshot(self) -> dict[str, Any]:
        """All that the point holds, for people and metrics."""
        now = self._clock()
        with self._waiters.lock:
            state = self._state
            decisions = list(state.decisions.values())
            leases, heard_at = list(state.leases.values()), dict(state.heard_at)
            counts = dict(state.counts)
            rules = list(state.budgets.in_force.values())
            budgets = list(standings(rules, self._desk.accounts, now, {}))
        return {
            "ready": self.ready,
            "staleness_us": state.staleness(now),
            "across_staleness_us": state.across_staleness(now),
            "heard_at": heard_at,
            "counts": counts | {"lost_reports": self._outbox.lost},
            "decisions": decisions,
            "leases": leases,
            "budgets": budgets,
            "reservations": self._desk.running,
            "publisher_down": self._publisher.down,
        }

    def report(self) -> None:
        """Send what happened since the last report, and what is due on leases."""
        self._preemption.begin(self._state, self._clock())
        self._outbox.send(self._waiters.lock)
        self._desk.tell()

    def publish_later(self, event: Mapping[str, Any], then: Callable[[], None]) -> None:
        """Keep an event that could not be emitted; `then` is called when it has gone."""
        with self._waiters.lock:
            self._outbox.later(event, then)

    def report_until(self, stop: threading.Event) -> None:
        """Report once a second until `stop` is set, and once more then."""
        while not stop.wait(REPORT_EVERY_S):
            self.report()
        self.report()

    def close(self) -> None:
        """Report what happened and close the leases; nothing can be reserved any more."""
        self.report()
        self._desk.close()

    def after_fork(self) -> None:
        """Make locks anew in a forked child; the parent's news and leases stay the parent's."""
        self._waiters = Waiters()
        self._outbox.after_fork()
        self._desk.after_fork(self._waiters)
        was_read, self._read = self._read.is_set(), threading.Event()
        if was_read:
            self._read.set()
