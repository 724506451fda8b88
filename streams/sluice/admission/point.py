"""The admission point: answers from memory whether a request may go on, and says why."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sluice.admission.background import watch_forks
from sluice.admission.control_state import Applied, ControlState, Match
from sluice.admission.decision import CONDITIONS
from sluice.admission.rate import Buckets
from sluice.admission.reporting import Emitter, Reports
from sluice.admission.sentences import Explained, explain
from sluice.admission.verdict import (
    AdmissionRequest,
    Verdict,
    admitted,
    limits,
    refused,
    refusing,
    unread,
    unrestricted,
)
from sluice.errors import OutsideError

# Events that wait for an emitter in trouble; beyond it the oldest are given up.
MAX_UNSENT = 50_000
REPORT_EVERY_S = 1.0

_log = logging.getLogger(__name__)


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
    ) -> None:
        self._carries_out = frozenset(carries_out)
        self._state = self.empty_state() if state is None else state
        self._emitter = emitter
        self._clock = clock
        self._cold_start = cold_start
        self._made_at = clock()
        self._buckets = Buckets()
        self._reports = Reports(source)
        self._unsent: deque[Mapping[str, Any]] = deque()
        self._lost_reports = 0
        self._lock = threading.Lock()
        self._emitting = threading.Lock()
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
        left_us = self._made_at + self._cold_start.wait_ms * 1000 - now
        if self._read.wait(min(max(0, left_us), self._cold_start.wait_ms * 1000) / 1e6):
            return self._admit(request, self._clock())
        verdict = unread(
            allowed=self._cold_start.then == "open", staleness_us=self._state.staleness(now)
        )
        return self._told(request, verdict, now)

    def _admit(self, request: AdmissionRequest, now: int) -> Verdict:
        state = self._state
        staleness_us = state.staleness(now)
        matches = state.matching(request, now)
        if not matches:
            return unrestricted(staleness_us)
        return self._told(request, self._judge(request, matches, now, staleness_us), now)

    def _judge(
        self, request: AdmissionRequest, matches: list[Match], now: int, staleness_us: int | None
    ) -> Verdict:
        refusal = refusing(matches, request.tool_name)
        if refusal is not None:
            return refused(refusal, now, staleness_us)
        limited = limits(matches)
        if limited:
            with self._lock:
                shortage = self._buckets.take(limited, now)
            if shortage is not None:
                (short,) = (m for m in matches if m.decision.key == shortage.key)
                return refused(short, now, staleness_us, shortage.wait_us)
        return admitted(matches, staleness_us)

    def _told(self, request: AdmissionRequest, verdict: Verdict, now: int) -> Verdict:
        if not verdict.allowed and self._emitter is not None:
            with self._lock:
                self._reports.refused(request, verdict, now)
        return verdict

    # ---- following

    def now(self) -> int:
        """The point's clock, µs UTC."""
        return self._clock()

    def empty_state(self) -> ControlState:
        """A state to read the control topic into, for `adopt`."""
        return ControlState(self._carries_out)

    def adopt(self, state: ControlState) -> None:
        """Answer from `state` from now on; its reader has seen the whole topic."""
        with self._lock:
            self._state = state
            self._buckets.keep_only(state.decisions.keys())
        self._read.set()

    def apply(
        self, partition: int, key: bytes | None, value: bytes | None, *, live: bool = True
    ) -> Applied | None:
        """Take one message of the control topic; `live`: it was published after the snapshot."""
        now = self._clock()
        with self._lock:
            applied = self._state.apply(partition, key, value, now)
            if applied is not None:
                self._note(applied, now, live=live)
        return applied

    def _note(self, applied: Applied, now: int, *, live: bool) -> None:
        if applied.kind == "lifted":
            self._buckets.drop(applied.key)
        decision = applied.decision
        if applied.kind != "decision" or decision is None or decision.shadow:
            return
        if live and self._emitter is not None:
            self._reports.applied(decision, now)

    def expect(self, partitions: Collection[int]) -> None:
        """Count the silence of these source partitions from now on."""
        with self._lock:
            self._state.expect(partitions, self._clock())

    # ---- telling

    @property
    def ready(self) -> bool:
        """Whether the control topic was read to its end once."""
        return self._read.is_set()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until `ready`; False if it took longer."""
        return self._read.wait(timeout_s)

    def staleness(self, now: int | None = None) -> int | None:
        """µs since the longest silent source partition was heard; None before any is known."""
        return self._state.staleness(self._clock() if now is None else now)

    def explain(self, scope: Mapping[str, str | None]) -> list[Explained]:
        """Every decision that can meet a request of `scope`, with one sentence each."""
        with self._lock:
            decisions = list(self._state.decisions.values())
        return explain(decisions, scope, self._clock())

    def snapshot(self) -> dict[str, Any]:
        """All that the point holds, for people and metrics."""
        now = self._clock()
        with self._lock:
            state = self._state
            decisions = list(state.decisions.values())
            leases, heard_at = list(state.leases.values()), dict(state.heard_at)
            counts = dict(state.counts)
        return {
            "ready": self.ready,
            "staleness_us": state.staleness(now),
            "heard_at": heard_at,
            "counts": counts | {"lost_reports": self._lost_reports},
            "decisions": decisions,
            "leases": leases,
        }

    def report(self) -> None:
        """Send what happened since the last report; what finds no way out waits for the next."""
        if self._emitter is None:
            return
        with self._emitting:
            with self._lock:
                self._unsent.extend(self._reports.drain())
            while len(self._unsent) > MAX_UNSENT:
                self._unsent.popleft()
                self._lost_reports += 1
            self._send(self._emitter)

    def _send(self, emitter: Emitter) -> None:
        while self._unsent:
            try:
                emitter.emit(self._unsent[0])
            except OutsideError as error:
                _log.warning("%d admission events wait: %s", len(self._unsent), error)
                return
            except Exception:
                # An event that cannot be sent at all must not hold up the ones behind it.
                _log.exception("an admission event was given up")
                self._lost_reports += 1
            self._unsent.popleft()

    def report_until(self, stop: threading.Event) -> None:
        """Report once a second until `stop` is set, and once more then."""
        while not stop.wait(REPORT_EVERY_S):
            self.report()
        self.report()

    def after_fork(self) -> None:
        """Make locks anew in a forked child and leave the parent's news to the parent."""
        self._lock, self._emitting = threading.Lock(), threading.Lock()
        self._reports.clear()
        self._unsent.clear()
        was_read, self._read = self._read.is_set(), threading.Event()
        if was_read:
            self._read.set()
