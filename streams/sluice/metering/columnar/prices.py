"""A price book prepared for many events: when its prices change, and for whom they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from sluice.metering.columnar.usage import Usage
from sluice.metering.prices import Contract, PriceBook, PriceEntry, ToolPrice
from sluice.money import INT64_MAX
from sluice.wire.column_types import Coded, Ints

_NAMES = ("event_type", "outcome", "operation_name", "provider_name", "request_model",
          "response_model", "service_tier", "tenant_id", "tool_name", "tool_server")  # fmt: skip
_UNUSED: dict[str, Any] = {
    "cost_pusd": None, "cost_source": None, "gpu_us": None, "kv_byte_ms": None,
    "cache_write_by_ttl": [], "tokens_by_modality": [], "server_tool_requests": [], "units": [],
    "input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0,
    "cache_write_input_tokens": 0, "reasoning_output_tokens": 0,
}  # fmt: skip

_MOST_KEPT = 100_000

Answer = TypeVar("Answer")


class Kept:
    """Answers that were looked up before, by everything that they depend on."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Any, ...], Any] = {}

    def get(self, question: tuple[Any, ...], found: Callable[[], Answer]) -> Answer:
        """The answer to a question, looked for where it was not asked before."""
        answer: Answer | None = self._answers.get(question)
        if answer is None:
            if len(self._answers) >= _MOST_KEPT:
                self._answers.clear()
            answer = self._answers[question] = found()
        return answer


class Prices:
    """What in a book (None: no book is in force) tells events of one model apart."""

    def __init__(self, book: PriceBook | None) -> None:
        self.book = book
        self._borders = np.array(sorted(set(_instants(book))), dtype=np.int64)
        self.kept = Kept()
        self._tenants = {name: place for place, name in enumerate(_tenants(book), 1)}

    def interval(self, at: Ints) -> Ints:
        """Which stretch of time between two changes of any price an instant (µs UTC) is in."""
        return np.searchsorted(self._borders, at, side="right").astype(np.int64)

    def tenants(self, coded: Coded) -> Ints:
        """Tenants that the book names, each by a number of its own; all others are 0."""
        places = [self._tenants.get(name or "", 0) for name in coded.values]
        return np.array(places, dtype=np.int64)[coded.codes]


def blank_event(usage: Usage, row: int) -> dict[str, Any]:
    """The names in one event that its price depends on, without any usage."""
    names = {name: usage.text(name).one(row) for name in _NAMES}
    return {**_UNUSED, **names, "occurred_at": int(usage.number("occurred_at").value[row])}


def names_of(usage: Usage, names: Sequence[str], rows: Ints) -> list[tuple[str | None, ...]]:
    """Texts of these fields, a tuple per row."""
    columns = (usage.coded(name) for name in names)
    return list(zip(*(_texts(coded, rows) for coded in columns), strict=True))


def _texts(coded: Coded, rows: Ints) -> list[str | None]:
    return [coded.values[code] for code in coded.codes[rows].tolist()]


def _instants(book: PriceBook | None) -> Iterator[int]:
    for item in _listed(book):
        for instant in (item.effective_from, item.effective_to):
            if instant is not None:
                yield max(-INT64_MAX, min(instant, INT64_MAX))


def _tenants(book: PriceBook | None) -> list[str]:
    return sorted({item.tenant_id for item in _listed(book) if item.tenant_id is not None})


def _listed(book: PriceBook | None) -> list[PriceEntry | ToolPrice | Contract]:
    return [*book.entries, *book.tools, *book.contracts] if book else []
