"""The rows of trace files: what a reader makes of each, and what it notes on its way.

Readers take times, token counts and names out of a row through `us_of`, `tokens_of` and `name_of`,
which refuse what is none.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from sluice.errors import WireError

STAND_IN_MODEL, STAND_IN_PROVIDER = "gpt-4o", "openai"
SYNTHETIC_TENANTS = 12
MAX_TOKENS = 10**9
MAX_TIME_US = 10**16
NO_TENANTS = f"the trace names no tenants: requests go to {SYNTHETIC_TENANTS} made-up ones"
NO_MODEL = f"the trace names no model: priced as {STAND_IN_MODEL}"

_GZIP_MAGIC = b"\x1f\x8b"
_BAD_LINE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError,
             WireError)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request; times in µs, `arrival_us` from the arrival of the trace's first request.

    `queue_us` and `ttft_us` count from arrival to schedule and first token, `latency_us` to the
    end. `task` is the agent task that it belongs to. `parent` is the number of the request that
    caused it: readers count in the order in which they yield, a Trace in that of arrival. `event`
    holds further fields of its UsageEvent.
    """

    arrival_us: int
    tenant_id: str
    model: str
    provider_name: str
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    queue_us: int | None = None
    ttft_us: int | None = None
    latency_us: int | None = None
    timing_quality: str = "gateway"
    usage_source: str = "tokenizer"
    refused_in_trace: bool = False
    task: str | None = None
    parent: int | None = None
    event: dict[str, Any] | None = None

    def to_json(self) -> str:
        """One line, as gateways read it."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a trace is wanted: its first requests, its first µs; None = all of it."""

    requests: int | None = None
    span_us: int | None = None


@dataclass(slots=True)
class Reading:
    """What a reader notes on its way: faults of lines, and sentences about what it assumed.

    `wanted` and `seed` are for readers that draw requests from distributions: after so many they
    may stop, and the same seed gives the same requests.
    """

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wanted: Extent = field(default_factory=Extent)
    seed: int = 0

    def fault(self, place: str, error: Exception) -> None:
        """A line cannot be used."""
        self.faults.append(f"{place}: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in column {error.colno}"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    with opened(path) as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, line


def opened(path: Path) -> TextIO:
    """The text of a file, gzip-compressed or not."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    opener: Any = gzip.open if packed else Path.open
    text: TextIO = opener(path, "rt", encoding="utf-8")
    return text


def objects_of(path: Path, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects, one a line; what is none becomes a fault."""
    for number, line in lines_of(path):
        try:
            value = json.loads(line.rstrip(), parse_constant=_no_number)
            if not isinstance(value, dict):
                raise TypeError("a line must hold a JSON object")
        except _BAD_LINE as error:
            reading.fault(f"line {number}", error)
        else:
            yield number, value


def converted(
    rows: Iterator[tuple[str, Any]], reading: Reading, convert: Callable[[Any], TraceRequest]
) -> Iterator[TraceRequest]:
    """Requests made of (place, row) pairs; a row that `convert` cannot take becomes a fault."""
    for place, row in rows:
        try:
            yield convert(row)
        except _BAD_LINE as error:
            reading.fault(place, error)


def us_of(value: Any, scale: int) -> int:
    """Microseconds of a time in units of `scale` µs."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no time")
    time_us = round(value * scale)
    if not 0 <= time_us <= MAX_TIME_US:
        raise ValueError(f"{value!r} is no time of a trace")
    return time_us


def tokens_of(value: Any) -> int:
    """A token count."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOKENS:
        raise ValueError(f"{value!r} is no token count")
    return value


def name_of(value: Any) -> str:
    """A name that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no name")
    return value


def synthetic_tenant(index: int) -> str:
    """Tenant of the n-th request of a trace without tenants: few large ones, many small ones."""
    spread = (index * 2_654_435_761) % 2**32  # a multiplicative hash, even over 32 bits
    return f"tenant-{spread * spread * SYNTHETIC_TENANTS // 2**64:02d}"


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
