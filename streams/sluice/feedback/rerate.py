"""Re-rating: what stored usage costs under another price book, as corrections.

Quantities stay; only what follows from the book changes. What a provider billed, what a person set,
and what is too old to be corrected is left out and counted with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sluice.errors import WireError
from sluice.feedback.standing import Change, Classes, Row, Standing, correction, explained, standing
from sluice.metering.prices import PriceBook
from sluice.metering.rating import Cost, cost
from sluice.metering.validate import check_usage
from sluice.wire.codec import END_MARK

REASON = "rerate"
# A correction reaches the broker after it was made: what is about to be too old counts as such.
_MARGIN_US = 3_600_000_000
_UNPRICED = "no price in this book"
_SENDER = {"source": "-", "source_epoch": "-", "source_seq": None, "end_mark": END_MARK}
_DEFAULTS: dict[str, Any] = {
    "tool_args_hash": None, "result_hash": None, "queue_us": None, "ttft_us": None,
    "latency_us": None, "gpu_us": None, "energy_mj": None, "kv_byte_ms": None,
    "kv_bytes_per_token": None, "kv_peak_tokens": None, "io_read_bytes": None,
    "io_write_bytes": None, "net_in_bytes": None, "net_out_bytes": None, "reservation_id": None,
    "lease_id": None, "estimated_cost_pusd": None, "max_output_tokens": None, "risk_flags": [],
}  # fmt: skip


class Line(msgspec.Struct):
    """Sums of one tenant and model: before, and what the corrections add."""

    events: int = 0
    changed: int = 0
    newly_priced: int = 0
    before_pusd: int = 0
    delta_pusd: int = 0

    @property
    def after_pusd(self) -> int:
        """What it costs once the corrections are applied."""
        return self.before_pusd + self.delta_pusd


class Summary(msgspec.Struct):
    """What a re-rating looked at and changes; `left_out` counts events by reason."""

    lines: dict[tuple[str, str], Line] = msgspec.field(default_factory=dict)
    left_out: Counter[str] = msgspec.field(default_factory=Counter)

    def total(self) -> Line:
        """Sums over all tenants and models."""
        names = Line.__struct_fields__
        return Line(*(sum(getattr(line, name) for line in self.lines.values()) for name in names))


class Rerating:
    """Turns stored usage into corrections under `book`, at broker time `now` (µs UTC)."""

    def __init__(self, book: PriceBook, now: int) -> None:
        self._book = book
        self._now = now + _MARGIN_US
        self.summary = Summary()

    def corrections(self, groups: Iterable[Sequence[Row]]) -> Iterator[dict[str, Any]]:
        """Corrections of events, each given with its earlier corrections in one group.

        Rows are UsageEvents with the cost they were stored with.
        """
        for group in groups:
            try:
                made = self._made(group)
            except OverflowError:
                self.summary.left_out["a sum beyond 64 bits"] += 1
                continue
            if made is not None:
                yield made

    def _made(self, group: Sequence[Row]) -> dict[str, Any] | None:
        stands = standing(group)
        if stands is not None:
            return self._take(stands)
        self.summary.left_out["original not stored"] += 1
        return None

    def _take(self, stands: Standing) -> dict[str, Any] | None:
        line = self._line(stands.original)
        line.events += 1
        line.before_pusd += stands.net_pusd or 0
        change = self._change(stands)
        if change is None or change.cost_pusd == stands.net_pusd:
            return None
        made = correction(stands, change)
        if (fault := correction_fault(made, self._now)) is not None:
            self.summary.left_out[fault] += 1
            return None
        line.changed += 1
        line.newly_priced += stands.net_pusd is None
        line.delta_pusd += made["cost_pusd"]
        return made

    def _change(self, stands: Standing) -> Change | None:
        original = stands.original
        if reason := _set_elsewhere(stands):
            self.summary.left_out[reason] += 1
            return None
        rated = rate(self._book, stands.event)
        if rated is not None and rated.cost_pusd == stands.net_pusd:
            return None
        if rated is not None:
            classes = classes_of(rated)
            return Change(rated.cost_pusd, classes, self._book.version, "estimate", REASON)
        if original["cost_pusd"] is None and stands.net_pusd is not None:
            # It had no price before a re-rating gave it one: that one is taken back.
            return Change(0, {}, self._book.version, "estimate", REASON)
        self.summary.left_out[_UNPRICED] += 1
        return None

    def _line(self, event: Row) -> Line:
        key = (event["tenant_id"], event["response_model"] or event["request_model"])
        return self.summary.lines.setdefault(key, Line())


def _set_elsewhere(stands: Standing) -> str | None:
    if stands.by_hand:
        return "corrected by hand"
    return "billed by the provider" if billed(stands) else None


def billed(stands: Standing) -> bool:
    """Whether the original's cost is the provider's bill."""
    original = stands.original
    return original["cost_source"] == "provider" and original["cost_pusd"] is not None


def rate(book: PriceBook | None, event: Row) -> Cost | None:
    """Cost of an event by the book, whatever cost it was stored with; None without a price."""
    if event["cost_source"] == "provider":
        return cost(book, event)
    return cost(book, {**event, "cost_pusd": None, "cost_source": None})


def classes_of(rated: Cost) -> Classes:
    """Quantity and cost per class; what no class explains is `unclassified`."""
    parts = [part._asdict() for part in rated.parts]
    return explained(rated.cost_pusd, parts)


def correction_fault(event: Row, now: int) -> str | None:
    """Why the meter would refuse a correction at broker time `now` (µs), or None."""
    try:
        check_usage({**_DEFAULTS, **event, **_SENDER}, event["tenant_id"].encode(), now)
    except WireError as error:
        old = error.reason == "absurd_time" and event["started_at"] < now
        return "too old" if old else str(error)
    return None
