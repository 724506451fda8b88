"""Traces as requests in the order of their arrival, whatever file they came from.

What a trace does not say stays None; what a reader makes up for a replay (the tenants of a trace
without any) it says in the notes, which the replay prints.
"""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from sluice.errors import ConfigError
from sluice.replay.formats import READERS
from sluice.replay.rows import Extent, Reading, TraceRequest

MAX_SHOWN_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests by arrival, what was assumed about them, and the faults of lines left out."""

    requests: list[TraceRequest]
    notes: list[str]
    faults: list[str]


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


def read_trace(path: Path, format: str, *, skip_bad: bool = False, wanted: Extent | None = None,
               seed: int = 0) -> Trace:  # fmt: skip
    """Read as much of a trace as is wanted, in one of the formats of READERS, gzip or not.

    `seed` decides what is drawn from traces that consist of distributions.

    Raises TraceError naming malformed lines, unless `skip_bad` leaves them out; ConfigError where
    the file cannot be read at all.
    """
    if format not in READERS:
        raise ConfigError(f"unknown trace format {format!r}; one of {', '.join(READERS)}")
    wanted = wanted or Extent()
    reading = Reading(wanted=wanted, seed=seed)
    try:
        requests = list(READERS[format](path, reading))
    except (OSError, EOFError, zlib.error, tarfile.TarError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if reading.faults and not skip_bad:
        raise TraceError(path, reading.faults)
    if not requests:
        raise ConfigError(f"{path} holds no request in format {format}; check --format")
    chosen = _cut(_rebased(requests), wanted)
    return Trace(chosen, _notes(chosen, reading), reading.faults)


def _rebased(requests: list[TraceRequest]) -> list[TraceRequest]:
    """Ordered and numbered by arrival, the first at 0."""
    order = sorted(range(len(requests)), key=lambda number: requests[number].arrival_us)
    places = {number: place for place, number in enumerate(order)}
    first = requests[order[0]].arrival_us
    return [
        replace(request, arrival_us=request.arrival_us - first,
                parent=None if request.parent is None else places[request.parent])
        for request in map(requests.__getitem__, order)
    ]  # fmt: skip


def _cut(requests: list[TraceRequest], wanted: Extent) -> list[TraceRequest]:
    first = requests[: wanted.requests]
    if wanted.span_us is None:
        return first
    return [request for request in first if request.arrival_us < wanted.span_us]


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
