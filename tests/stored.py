"""Usage as ClickHouse gives it back: complete rows with what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sluice.wire.codec import decode, encode
from tests.builders import usage


def row(event: Mapping[str, Any], cost_pusd: int | None, *, version: str | None = "book",
        classes: Iterable[tuple[str, int, int]] = ()) -> dict[str, Any]:  # fmt: skip
    """A stored event; `classes` are (key, quantity, cost)."""
    stored = decode(encode("UsageEvent", event))[1]
    parts = [{"key": key, "quantity": q, "cost_pusd": cost} for key, q, cost in classes]
    return stored | {"cost_pusd": cost_pusd, "price_book_version": version,
                     "usage_by_class": parts}  # fmt: skip


def original(number: int = 1, cost_pusd: int | None = 0, **over: Any) -> dict[str, Any]:
    """A stored usage event of that number."""
    classes = over.pop("classes", ())
    version = over.pop("version", "book")
    return row(usage(number, **over), cost_pusd, version=version, classes=classes)


def as_stored(correction: Mapping[str, Any]) -> dict[str, Any]:
    """A correction as it comes back from ClickHouse once it was emitted."""
    sender = {"source": "sluice-corrections", "source_epoch": "e", "source_seq": 1}
    return decode(encode("UsageEvent", {**correction, **sender}))[1]


def table_row(stored: Mapping[str, Any], *, broker_time: int | None = None,
              version: int = 1) -> dict[str, Any]:  # fmt: skip
    """The row of usage_events; it arrived when it occurred unless `broker_time` says otherwise."""
    came = stored["occurred_at"] if broker_time is None else broker_time
    kept = {name: value for name, value in stored.items() if name != "end_mark"}
    return kept | {
        "unpriced": int(stored["cost_pusd"] is None), "occurred_at_clamped": stored["occurred_at"],
        "source_partition": 0, "source_offset": version, "broker_time": came, "version": version,
    }  # fmt: skip
