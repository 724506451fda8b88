"""What an admission point has to tell: refusals and decisions applied, once a second."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from sluice.admission.decision import Decision
from sluice.admission.publisher import Publisher
from sluice.admission.reporting import Reports
from sluice.admission.verdict import AdmissionRequest, Verdict
from sluice.errors import OutsideError

# Events that wait for an emitter in trouble; beyond it the oldest are given up.
MAX_UNSENT = 50_000

_log = logging.getLogger(__name__)


class Outbox:
    """Collects under the point's lock, which the caller of `refused` and `applied` holds."""

    def __init__(self, publisher: Publisher, source: str) -> None:
        self._publisher = publisher
        self._reports = Reports(source)
        # Events, and what to do once one was emitted or given up.
        self._unsent: deque[tuple[Mapping[str, Any], Callable[[], None]]] = deque()
        self._sending = threading.Lock()
        self.lost = 0

    def refused(self, request: AdmissionRequest, verdict: Verdict, now: int) -> None:
        """Count a refusal."""
        if self._publisher.emits:
            self._reports.refused(request, verdict, now)

    def applied(self, decision: Decision, now: int) -> None:
        """Note that a live decision took hold."""
        if self._publisher.emits:
            self._reports.applied(decision, now)

    def later(self, event: Mapping[str, Any], then: Callable[[], None]) -> None:
        """Keep an event that could not be emitted; `then` is called when it was, without a lock."""
        self._unsent.append((event, then))

    def send(self, lock: threading.Lock) -> None:
        """Send everything; what finds no way out waits for the next time."""
        if not self._publisher.emits:
            return
        with self._sending:
            with lock:
                self._unsent.extend((event, _nothing) for event in self._reports.drain())
            while len(self._unsent) > MAX_UNSENT:
                self.lost += 1
                self._unsent.popleft()[1]()
            self._send()

    def _send(self) -> None:
        while self._unsent:
            try:
                self._publisher.emit(self._unsent[0][0])
            except OutsideError as error:
                _log.warning("%d admission events wait: %s", len(self._unsent), error)
                return
            except Exception:
                # An event that cannot be sent at all must not hold up the ones behind it.
                _log.exception("an admission event was given up")
                self.lost += 1
            self._unsent.popleft()[1]()

    def after_fork(self) -> None:
        """In a forked child: the parent's news are the parent's to tell."""
        self._sending = threading.Lock()
        self._reports.clear()
        self._unsent.clear()


def _nothing() -> None:
    """Nobody asks when a refusal or a notice was sent."""
