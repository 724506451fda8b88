"""JSON lines to usage events: each line is checked, faults are told with their line number."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sluice.errors import WireError
from sluice.wire.codec import END_MARK, decode, encode
from sluice.wire.wal import SpoolFull

Check = Callable[[Mapping[str, Any]], None]
Adapt = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Emits(Protocol):
    """What lines are emitted to."""

    def emit(self, event: Mapping[str, Any]) -> object:
        """Take one event."""


@dataclass(frozen=True, slots=True)
class LineFault:
    """A line that was not emitted: its number from 1, a stable reason, the details."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class LineCounts:
    """Lines emitted and lines with a fault; blank ones are neither."""

    emitted: int
    faults: int


def emit_lines(emitter: Emits, lines: Iterable[str], check: Check,
               on_fault: Callable[[LineFault], None],
               adapt: Adapt | None = None) -> LineCounts:  # fmt: skip
    """Emit every sound line of `lines` and tell `on_fault` of every other one.

    `adapt` makes an event of a line's object where that is not one; its WireErrors are faults too.
    `check` gets each event as its reader will decode it, defaults filled in, and raises WireError
    where it breaks a rule. Further reasons: not_json, not_object, and those of `emit`. Raises
    SpoolFull with the number of the line that had no room; the lines before it are emitted.
    """
    emitted = faults = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _emit_line(emitter, line, check, adapt)
        except WireError as error:
            faults += 1
            on_fault(LineFault(number, error.reason, error.detail))
        except SpoolFull as error:
            raise SpoolFull(f"line {number}: {error}") from error
        else:
            emitted += 1
    return LineCounts(emitted, faults)


def _emit_line(emitter: Emits, line: str, check: Check, adapt: Adapt | None) -> None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError("not_json", str(error)) from error
    if not isinstance(found, dict):
        raise WireError("not_object", f"a {type(found).__name__} instead of an object")
    event = found if adapt is None else adapt(found)
    check(_as_read(event))
    emitter.emit(event)


def _as_read(event: Mapping[str, Any]) -> Mapping[str, Any]:
    # Stands in for what the emitter fills in itself.
    own = {"event_id": event.get("event_id") or "-", "source": "-", "source_epoch": "-",
           "source_seq": 1, "end_mark": END_MARK}  # fmt: skip
    return decode(encode("UsageEvent", {**event, **own}))[1]
