"""The rows of trace files: what a reader makes of each, and what it notes on its way."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sluice.errors import WireError

_GZIP_MAGIC = b"\x1f\x8b"
_BAD_LINE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError,
             WireError)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request; times in µs, `arrival_us` from the arrival of the trace's first request.

    `queue_us` and `ttft_us` count from arrival to schedule and first token, `latency_us` to the
    end. `event` holds the other fields of a UsageEvent where the trace consists of those.
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
    event: dict[str, Any] | None = None

    def to_json(self) -> str:
        """One line, as gateways read it."""
        return json.dumps(asdict(self))


@dataclass(slots=True)
class Reading:
    """What a reader notes on its way: faults of lines, and sentences about what it assumed."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, place: str, error: Exception) -> None:
        """A line cannot be used."""
        self.faults.append(f"{place}: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in column {error.colno}"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    opener: Any = gzip.open if packed else Path.open
    with opener(path, "rt", encoding="utf-8") as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, line


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


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
