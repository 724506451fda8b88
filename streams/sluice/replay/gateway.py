"""One gateway process of a replay: real admission, real emitter, requests played in wall time.

`python -m sluice.replay.gateway CONFIG` plays one slot's share. The parent waits until every slot
has made its `ready` file and then names the instant at which the trace begins. A gateway that ended
badly is started again with the same CONFIG and goes on where its ledger ends.
"""

from __future__ import annotations

import heapq
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from sluice.admission.subscriber import follow
from sluice.admission.verdict import AdmissionRequest, Verdict
from sluice.errors import OutsideError
from sluice.metering.prices import PriceBook, load_book
from sluice.replay.events import (
    Event,
    Schedule,
    estimate_pusd,
    facts_of,
    held_to,
    orphaned,
    question,
    refusal_of,
    usage_event,
)
from sluice.replay.ledger import Ledger
from sluice.replay.recovery import published_ids
from sluice.replay.rows import TraceRequest
from sluice.settings import load_settings
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import producer_config, topics, wait_for_broker

EXIT_STOPPED = 143
_READY_S = 30.0
_STATUS_S = 0.25
_BEGIN_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Share:
    """What one gateway slot plays, at which speed."""

    run_id: str
    number: int
    speed: float
    folder: Path
    stack: Path

    @classmethod
    def read(cls, path: Path) -> Share:
        """The share that a CONFIG file describes."""
        fields = json.loads(path.read_text())
        folders = {name: Path(fields[name]) for name in ("folder", "stack")}
        return cls(**(fields | folders))

    def write(self) -> Path:
        """Write the CONFIG file of this share."""
        path = self.file("gateway-{}.json")
        path.write_text(json.dumps(asdict(self), default=str))
        return path

    @property
    def source(self) -> str:
        """Name under which this slot emits."""
        return f"replay-{self.run_id}-{self.number}"

    def file(self, pattern: str) -> Path:
        """A file of this slot."""
        return self.folder / pattern.format(self.number)

    def requests(self) -> dict[int, TraceRequest]:
        """The requests of this slot by their number in the run."""
        with self.file("requests-{}.jsonl").open() as lines:
            return {number: TraceRequest(**fields) for number, fields in map(json.loads, lines)}


def slots(requests: Iterable[TraceRequest], gateways: int) -> Iterator[int]:
    """The slot of each request: in turn, but those of a task stay together and thus in order."""
    of_tasks: dict[tuple[str, str], int] = {}
    for number, request in enumerate(requests):
        own = number % gateways
        if request.task is not None:
            own = of_tasks.setdefault((request.tenant_id, request.task), own)
        yield own


class Admits(Protocol):
    """Answers questions, like AdmissionPoint."""

    def admit(self, request: AdmissionRequest) -> Verdict:
        """Decide about one request."""


class Emits(Protocol):
    """Takes usage events, like UsageEmitter."""

    def emit(self, event: Event) -> Any:
        """Accept one event."""


class Gateway:
    """Asks admission when a request arrives, emits its usage when it ends.

    Tool calls are asked for by the model call that causes them: they need no admission, and do not
    happen where that call was refused.
    """

    def __init__(self, schedule: Schedule, ledger: Ledger, emitter: Emits, point: Admits,
                 book: PriceBook, wait: Callable[[int], None]) -> None:  # fmt: skip
        """`wait` returns at an instant (µs UTC)."""
        self._schedule, self._ledger = schedule, ledger
        self._emitter, self._point, self._book, self._wait = emitter, point, book, wait
        self._running: list[tuple[int, int, Event]] = []

    @property
    def in_flight(self) -> int:
        """Requests that were admitted and have not ended."""
        return len(self._running)

    def settle(self, requests: dict[int, TraceRequest], published: set[str]) -> None:
        """Close the intents that a killed predecessor left open, emitting what it could not.

        `published`: ids of all events that the predecessor's emitter had accepted.
        """
        for number, facts in self._ledger.open_intents().items():
            event = usage_event(self._schedule, number, requests[number]) | facts
            if event["event_id"] not in published:
                self._emitter.emit(event)
            self._ledger.accept(number)

    def play(self, requests: dict[int, TraceRequest]) -> None:
        """Play what the ledger does not name yet, arrivals and ends in the order of their times."""
        for number in self._ledger.left(requests):
            arrival = self._schedule.arrival(requests[number])
            self._finish_until(arrival)
            self._wait(arrival)
            event = usage_event(self._schedule, number, requests[number])
            if event["event_type"] == "tool":
                self._call_tool(number, requests[number].parent, event)
            else:
                self._arrive(number, event)
        self._finish_until(None)

    def _arrive(self, number: int, event: Event) -> None:
        verdict = self._point.admit(question(event, self._book))
        if verdict.allowed:
            admitted = held_to(event, verdict, estimate_pusd(event, self._book))
            self._begin(number, admitted)
        else:
            self._ledger.refuse(number, refusal_of(event, verdict))

    def _call_tool(self, number: int, parent: int | None, event: Event) -> None:
        if parent is not None and self._ledger.was_refused(parent):
            self._ledger.refuse(number, orphaned(event))
        else:
            self._begin(number, event)

    def _begin(self, number: int, event: Event) -> None:
        heapq.heappush(self._running, (event["occurred_at"], number, event))

    def _finish_until(self, instant: int | None) -> None:
        while self._running and (instant is None or self._running[0][0] <= instant):
            self._wait(self._running[0][0])
            _, number, event = heapq.heappop(self._running)
            self._ledger.intent(number, facts_of(event))
            self._emitter.emit(event)
            self._ledger.accept(number)


class Pulse:
    """Waits, and meanwhile tells the parent how things are and watches that it lives."""

    def __init__(self, share: Share, emitter: UsageEmitter) -> None:
        self._path = share.file("status-{}.json")
        self._emitter = emitter
        self._parent = os.getppid()
        self._next = 0.0
        self.in_flight: Callable[[], int] = lambda: 0

    def wait(self, instant: int) -> None:
        """Return at `instant` (µs UTC), at once where it has passed."""
        while True:
            self._beat()
            left_s = instant / 1e6 - time.time()
            if left_s <= 0:
                return
            time.sleep(min(left_s, _STATUS_S))

    def drain(self) -> None:
        """Return when the broker has acknowledged everything, a predecessor's leftovers too."""
        while not self._flushed():
            self._beat()
        self._next = 0.0
        self._beat()

    def _flushed(self) -> bool:
        # Only before its deadline does `flush` return because nothing is left.
        deadline = time.monotonic() + _STATUS_S
        return not self._emitter.flush(_STATUS_S) and time.monotonic() < deadline

    def _beat(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _STATUS_S
        if os.getppid() != self._parent:
            sys.exit(EXIT_STOPPED)
        status = {"in_flight": self.in_flight(), "pending": self._emitter.stats().pending}
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(status))
        fresh.replace(self._path)


def run(share: Share) -> None:
    """Play one share to its end; returns when everything is acknowledged."""
    settings = load_settings(share.stack)
    wait_for_broker(settings)
    requests = share.requests()
    book = load_book((share.folder / "book.json").read_text())
    # A folder of this slot's own: nobody but its successor takes its log over.
    emitter = UsageEmitter(producer_config(settings), topics(settings).usage, share.source,
                           share.file("wal-{}"))  # fmt: skip
    pulse = Pulse(share, emitter)
    with Ledger(share.file("ledger-{}.jsonl")) as ledger, emitter:
        # Of the conditions of decisions this gateway carries out only a cap on the output.
        with follow(settings, share.source, emitter, carries_out={"allow_with_caps"}) as point:
            if not point.wait_ready(_READY_S):
                raise OutsideError("the control topic cannot be read; see `sluice status`")
            schedule = Schedule(share.run_id, _begin(share, pulse), share.speed)
            gateway = Gateway(schedule, ledger, emitter, point, book, pulse.wait)
            pulse.in_flight = lambda: gateway.in_flight
            if ledger.open_intents():
                pulse.drain()
                gateway.settle(requests, published_ids(settings, share.source))
            gateway.play(requests)
        pulse.drain()


def _begin(share: Share, pulse: Pulse) -> int:
    """Tell the parent that this slot is ready, and wait for the instant at which all begin."""
    share.file("ready-{}").touch()
    begin = share.folder / "begin"
    while not begin.exists():
        pulse.wait(0)
        time.sleep(_BEGIN_POLL_S)
    return int(begin.read_text())


def main() -> None:
    """Play the share that the CONFIG file names; SIGTERM stops it, with what it accepted kept."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_STOPPED))
    run(Share.read(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
