"""A replay as a whole: gateway processes started together, watched, restarted, and counted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import SluiceError
from sluice.metering.prices import PriceBook, default_book
from sluice.replay.events import project_of
from sluice.replay.gateway import Share, slots
from sluice.replay.ledger import LedgerTail
from sluice.replay.traces import Trace
from sluice.settings import Settings

_LEAD_US = 300_000
_POLL_S = 0.1
_STOP_S = 30.0
_MAX_RESTARTS = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is: of `requests`, so many were emitted, refused or still run.

    `pending` of the emitted ones (and of reports of refusals) the broker has not acknowledged.
    """

    requests: int
    emitted: int = 0
    refused: int = 0
    in_flight: int = 0
    pending: int = 0
    restarts: int = 0
    seconds: float = 0.0

    @property
    def admitted(self) -> int:
        """Requests that admission let through."""
        return self.emitted + self.in_flight


@dataclass(frozen=True, slots=True)
class Replay:
    """A finished replay: where its ledgers are, when it began (µs UTC), how it went."""

    run_id: str
    folder: Path
    begin: int
    end: Progress

    @property
    def project_id(self) -> str:
        """Project that all of its usage carries."""
        return project_of(self.run_id)

    def ledgers(self) -> list[Path]:
        """The ledger of every gateway."""
        return sorted(self.folder.glob("ledger-*.jsonl"))


class Gateways:
    """The gateway processes of one replay."""

    def __init__(self, settings: Settings, trace: Trace, run_id: str, speed: float, count: int,
                 book: PriceBook | None = None) -> None:  # fmt: skip
        """Start `count` gateways; `book` (default: the packaged one) estimates costs."""
        folder, stack = (settings.dir / "replays" / run_id).resolve(), settings.dir.resolve()
        shares = [Share(run_id, n, speed, folder, stack) for n in range(count)]
        prepare(shares, trace, book or default_book())
        self.folder = folder
        self.restarts = 0
        self.begin: int | None = None
        self._shares = shares
        self._requests = len(trace.requests)
        self._tails = [LedgerTail(share.file("ledger-{}.jsonl")) for share in shares]
        self._began = time.monotonic()
        self._running = {share: _start(share) for share in shares}

    def pids(self) -> list[int]:
        """Process ids of the gateways that run."""
        return [process.pid for process in self._running.values()]

    def tend(self) -> bool:
        """Let the trace begin when all are ready, start again what ended badly; False at the end.

        Raises SluiceError with a gateway's last words when gateways keep ending.
        """
        for share, process in list(self._running.items()):
            code = process.poll()
            if code == 0:
                del self._running[share]
            elif code is not None:
                self._restart(share)
        if self.begin is None and all(share.file("ready-{}").exists() for share in self._shares):
            self._let_begin()
        return bool(self._running)

    def progress(self) -> Progress:
        """What ledgers and gateways say now."""
        for tail in self._tails:
            tail.look()
        states = [_status(share) for share in self._running]
        emitted = sum(tail.done for tail in self._tails)
        refused = sum(tail.refused for tail in self._tails)
        # Gateways tell this now and then, ledgers at once: together never more than there are.
        in_flight = sum(state.get("in_flight", 0) for state in states)
        return Progress(
            self._requests,
            emitted,
            refused,
            in_flight=min(in_flight, self._requests - emitted - refused),
            pending=sum(state.get("pending", 0) for state in states),
            restarts=self.restarts,
            seconds=time.monotonic() - self._began,
        )

    def stop(self) -> None:
        """End all gateways; what their emitters accepted stays in their logs."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _restart(self, share: Share) -> None:
        self.restarts += 1
        if self.restarts > _MAX_RESTARTS:
            log = share.file("gateway-{}.log")
            last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
            raise SluiceError(f"gateways keep ending, the last one said: {last}; see {log}")
        self._running[share] = _start(share)

    def _let_begin(self) -> None:
        self.begin = time.time_ns() // 1000 + _LEAD_US
        self._began = time.monotonic()
        fresh = self.folder / "begin.new"
        fresh.write_text(str(self.begin))
        fresh.replace(self.folder / "begin")


def replay(
    settings: Settings, trace: Trace, *, run_id: str, speed: float, gateways: int, book: PriceBook,
    watch: Callable[[Progress], None] = lambda _: None,
) -> Replay:  # fmt: skip
    """Play a trace through gateway processes; returns when the broker has all of it.

    `book` estimates costs at admission. Gateways are stopped whatever ends this call.
    """
    running = Gateways(settings, trace, run_id, speed, gateways, book)
    try:
        while running.tend():
            watch(running.progress())
            time.sleep(_POLL_S)
    finally:
        running.stop()
    end = running.progress()
    watch(end)
    return Replay(run_id, running.folder, running.begin or 0, end)


def prepare(shares: list[Share], trace: Trace, book: PriceBook) -> None:
    """Write the folder that all slots of a run read: the book and each slot's requests."""
    folder = shares[0].folder
    folder.mkdir(parents=True)
    (folder / "book.json").write_text(book.to_json())
    with ExitStack() as stack:
        files = [stack.enter_context(share.file("requests-{}.jsonl").open("w")) for share in shares]
        for number, slot in enumerate(slots(trace.requests, len(shares))):
            files[slot].write(f"[{number}, {trace.requests[number].to_json()}]\n")


def new_run_id() -> str:
    """A short id that no other run on this stack has."""
    return f"{time.time_ns() // 1_000_000:x}"


def _start(share: Share) -> subprocess.Popen[bytes]:
    argv = (sys.executable, "-m", "sluice.replay.gateway", str(share.write()))
    with share.file("gateway-{}.log").open("ab") as log:
        # A session of its own: Ctrl-C reaches the parent only, which stops the gateways in order.
        return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)


def _status(share: Share) -> dict[str, int]:
    try:
        status: dict[str, int] = json.loads(share.file("status-{}.json").read_text())
    except (OSError, ValueError):
        return {}
    return status
