"""Traces as requests in the order of their arrival, whatever file they came from.

What a trace does not say stays None; what a reader makes up for a replay (the tenants of a trace
without any) it says in the notes, which the replay prints.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from sluice.errors import ConfigError
from sluice.replay.formats import READERS
from sluice.replay.rows import Reading, TraceRequest

MAX_SHOWN_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests by arrival, what was assumed about them, and the faults of lines left out."""

    requests: list[TraceRequest]
    notes: list[str]
    faults: list[str]

    def first(self, limit: int | None) -> Trace:
        """The trace cut to its first requests; None keeps all."""
        return replace(self, requests=self.requests[:limit])


class TraceError(ConfigError):
    """A trace has malformed lines; `faults` names them all, the text the first ones."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        self.faults = faults
        shown = "".join(f"\n- {fault}" for fault in faults[:MAX_SHOWN_FAULTS])
        more = len(faults) - MAX_SHOWN_FAULTS
        super().__init__(
            f"{path}: {len(faults)} malformed line(s), nothing replayed; mend them or add "
            f"--skip-bad{shown}" + (f"\n- and {more} more" if more > 0 else "")
        )


def read_trace(path: Path, format: str, *, skip_bad: bool = False) -> Trace:
    """Read a trace in one of the formats of READERS, gzip-compressed or not.

    Raises TraceError naming malformed lines, unless `skip_bad` leaves them out; ConfigError where
    the file cannot be read at all.
    """
    if format not in READERS:
        raise ConfigError(f"unknown trace format {format!r}; one of {', '.join(READERS)}")
    reading = Reading()
    try:
        requests = list(READERS[format](path, reading))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if reading.faults and not skip_bad:
        raise TraceError(path, reading.faults)
    if not requests:
        raise ConfigError(f"{path} holds no request in format {format}; check --format")
    return Trace(_rebased(requests), _notes(requests, reading), reading.faults)


def _rebased(requests: list[TraceRequest]) -> list[TraceRequest]:
    """Ordered by arrival, the first at 0."""
    first = min(request.arrival_us for request in requests)
    moved = [replace(request, arrival_us=request.arrival_us - first) for request in requests]
    return sorted(moved, key=lambda request: request.arrival_us)


def _notes(requests: list[TraceRequest], reading: Reading) -> list[str]:
    refused = sum(request.refused_in_trace for request in requests)
    notes = list(reading.notes)
    if any(request.latency_us is None for request in requests):
        notes.append("a request without a measured latency ends when it arrives")
    if refused:
        notes.append(
            f"{refused:,} requests that the traced run refused are asked for again, with the "
            "output that they asked for"
        )
    if reading.faults:
        notes.append(f"{len(reading.faults):,} malformed lines were left out")
    return notes
