"""An admitted operation while it runs: what it moved, when, and the one event of its end.

The event's fields are null where nothing was counted. Times are the wall clock's at the start plus
what a steady clock measured since, so a clock that is set meanwhile moves nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from sluice.admission.counted import (
    CountedReads,
    CountedSocket,
    CountedWrites,
    counted_async_stream,
    counted_stream,
    size_of,
)
from sluice.admission.handed import MAX_TEXT_BYTES, Handed
from sluice.admission.opening import Means, Opening
from sluice.admission.outcomes import OUTCOMES, Ending, ended_by, slo_outcome
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import Verdict
from sluice.errors import SluiceError

Chunk = TypeVar("Chunk")
Size = Callable[[Any], int | None]

# Characters; at four bytes each they fill what a text may have.
MAX_ERROR_TYPE = MAX_TEXT_BYTES // 4

_log = logging.getLogger(__name__)


class Operation:
    """Counts while it runs and settles exactly once, at `finish` or at the end of its `with` block.

    Leaving the block settles as ok; an exception as error, with its class and never its text; what
    only stops the block (a cancelled task, a closed generator) as cancelled. `async with` is the
    same. Every method may be called from any thread; what is counted after the end is left out.

    The event is emitted there and then, on the caller's thread or loop; the emitter says how long
    that may take. Where it cannot be, `finish` and the end of the block raise the emitter's error,
    and `finish` may be called again; an exception on its way out of the block is not replaced.
    """

    def __init__(self, means: Means, opened: Opening) -> None:
        self._means = means
        self._opened = opened
        self.event_id = means.new_id()
        reserved = opened.reservation
        # Charged to the period in which it was reserved.
        self.started_at = means.clock() if reserved is None else reserved.started_at
        self._began = means.steady()
        self._lock = threading.Lock()
        self._bytes: dict[str, int] = {}
        self._notes: dict[str, Any] = {}
        self._handed = Handed()
        self._scheduled_us: int | None = None
        self._first_us: int | None = None
        self._abandoned = False
        self._event: dict[str, Any] | None = None
        self._settled = False

    @property
    def verdict(self) -> Verdict:
        """What admission said; its `caps` are the gateway's to keep."""
        return self._opened.verdict

    @property
    def reservation(self) -> Reservation | None:
        """What it holds of hard budgets; its `stop` says when to end."""
        return self._opened.reservation

    @property
    def stop(self) -> bool:
        """Whether it is told to stop; what it has used by then is charged as usual."""
        return self.reservation is not None and self.reservation.stop

    @property
    def settled(self) -> bool:
        """Whether its event was emitted."""
        return self._settled

    # ---- counting

    def sent(self, data: Any) -> None:
        """Count bytes (or a number of them) sent to whoever serves the operation."""
        self._count("net_out_bytes", size_of(data))

    def received(self, data: Any) -> None:
        """Count bytes (or a number of them) received from whoever serves the operation."""
        self._count("net_in_bytes", size_of(data))

    def read(self, data: Any) -> None:
        """Count bytes (or a number of them) read from storage."""
        self._count("io_read_bytes", size_of(data))

    def wrote(self, data: Any) -> None:
        """Count bytes (or a number of them) written to storage."""
        self._count("io_write_bytes", size_of(data))

    def _count(self, name: str, size: int) -> None:
        with self._lock:
            self._add(name, size)

    def _add(self, name: str, size: int) -> None:
        if self._event is None:
            self._bytes[name] = self._bytes.get(name, 0) + size

    def count_reads(self, file: Any) -> CountedReads:
        """Stands for a binary file and counts what is read through it."""
        return CountedReads(file, self.read)

    def count_writes(self, file: Any) -> CountedWrites:
        """Stands for a binary file and counts what is written through it."""
        return CountedWrites(file, self.wrote)

    def count_socket(self, sock: Any) -> CountedSocket:
        """Stands for a stream socket and counts what is received and sent through it."""
        return CountedSocket(sock, self.received, self.sent)

    def wrap_stream(
        self, chunks: Iterable[Chunk], size: Size = size_of
    ) -> Generator[Chunk, None, None]:
        """Pass an answer's chunks on, count them as received, note when the first one came.

        `size` tells the bytes of a chunk that is not bytes; None leaves it uncounted.
        """
        return counted_stream(chunks, lambda chunk: self._chunk(size(chunk)))

    def wrap_async_stream(
        self, chunks: AsyncIterable[Chunk], size: Size = size_of
    ) -> AsyncGenerator[Chunk, None]:
        """`wrap_stream` for an asynchronous answer."""
        return counted_async_stream(chunks, lambda chunk: self._chunk(size(chunk)))

    def _chunk(self, size: int | None) -> None:
        with self._lock:
            if size is not None:
                self._add("net_in_bytes", size)
            if size != 0:
                self._note_first()

    # ---- noting

    def scheduled(self) -> None:
        """Note that waiting is over; the first time counts, and none after the first token."""
        with self._lock:
            if self._scheduled_us is None and self._first_us is None:
                self._scheduled_us = self._elapsed()

    def first_token(self) -> None:
        """Note that the first token is there; streams and `streamed_tokens` do it by themselves."""
        with self._lock:
            self._note_first()

    def streamed_tokens(self, tokens: int = 1) -> None:
        """Count output tokens as they go by; what counts where the provider's own never comes."""
        with self._lock:
            self._handed.streamed(tokens)
            if tokens:
                self._note_first()
            if self.reservation is not None and self.reservation.holds:
                self.reservation.streamed({"output_tokens": self._handed.streamed_tokens})

    def usage(self, fields: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Hand over fields of UsageEvent, such as token counts; later ones win, None says nothing.

        Raises WireError where a field is unknown, of another type, out of bounds, or not the
        caller's to give.
        """
        with self._lock:
            self._handed.take({**(fields or {}), **more})

    def abandoned(self) -> None:
        """Say that the client went away: the block ends as cancelled, whatever ends it."""
        self._abandoned = True

    def _note(self, name: str, value: Any) -> None:
        with self._lock:
            self._notes[name] = value

    def _note_first(self) -> None:
        if self._first_us is None:
            self._first_us = self._elapsed()

    def _elapsed(self) -> int:
        return max(0, self._means.steady() - self._began)

    # ---- ending

    def finish(self, outcome: str = "ok", error_type: str | None = None) -> None:
        """Settle now, unless it has settled.

        Raises ValueError for an outcome that UsageEvent does not have.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome is one of {', '.join(sorted(OUTCOMES))}, not {outcome!r}")
        self._settle(Ending(outcome, error_type))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        ending = Ending("cancelled") if self._abandoned else ended_by(error)
        try:
            self._settle(ending)
        except SluiceError:
            if error is None:
                raise
            _log.exception("usage event %s was not emitted", self.event_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        self.__exit__(kind, error, trace)

    def _settle(self, ending: Ending) -> None:
        with self._lock:
            if self._settled:
                return
            if self._event is None:
                self._event = self._end(ending)
            # Before it is emitted: an interrupt right after it must not send it again.
            self._settled = True
            try:
                if self.reservation is None:
                    self._means.settle(self._event)
                else:
                    self.reservation.charge(self._event, self._means.settle)
            except Exception:
                self._settled = False
                raise

    def _end(self, ending: Ending) -> dict[str, Any]:
        if self.reservation is not None:
            ending = self.reservation.ended(ending)
        elapsed_us = self._elapsed()
        handed = self._handed.fields(whole=ending.outcome in ("ok", "degraded"))
        measured = self._measured(handed, elapsed_us)
        quality = slo_outcome(self._opened.slo, ending.outcome, measured["ttft_us"], elapsed_us)
        return {
            **self._opened.fields, **self._bytes, **self._notes, **handed, **measured,
            "event_id": self.event_id,
            "outcome": ending.outcome,
            "error_type": ending.error_type and ending.error_type[:MAX_ERROR_TYPE],
            "slo_outcome": "abandoned" if self._abandoned else quality,
        }  # fmt: skip

    def _measured(self, handed: Mapping[str, Any], elapsed_us: int) -> dict[str, Any]:
        """Times and durations; what the caller handed over (an engine's) goes before our own."""
        ended_at = self.started_at + elapsed_us
        scheduled_at = handed.get("scheduled_at", self._instant(self._scheduled_us))
        first_token_at = handed.get("first_token_at", self._instant(self._first_us))
        # Another machine's clock may contradict ours, and then it measured nothing.
        if first_token_at is not None and not self.started_at <= first_token_at <= ended_at:
            first_token_at = None
        latest = ended_at if first_token_at is None else first_token_at
        if scheduled_at is not None and not self.started_at <= scheduled_at <= latest:
            scheduled_at = None
        return {
            "started_at": self.started_at, "scheduled_at": scheduled_at,
            "first_token_at": first_token_at, "occurred_at": ended_at,
            "queue_us": handed.get("queue_us", self._queued(scheduled_at)),
            "ttft_us": handed.get("ttft_us", self._since_start(first_token_at)),
            "latency_us": elapsed_us,
        }  # fmt: skip

    def _queued(self, scheduled_at: int | None) -> int | None:
        """Waiting at admission, and then at whoever serves it."""
        before = None if self.reservation is None else self.reservation.queue_us
        after = self._since_start(scheduled_at)
        return after if before is None else before + (after or 0)

    def _instant(self, elapsed_us: int | None) -> int | None:
        return None if elapsed_us is None else self.started_at + elapsed_us

    def _since_start(self, instant: int | None) -> int | None:
        return None if instant is None else instant - self.started_at
