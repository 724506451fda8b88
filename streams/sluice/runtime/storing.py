"""From consumed records to ClickHouse rows: pure, so that a replay gives the same rows.

Raw usage is priced here with the same functions and the same versions as in the meter: what is in
force at an offset follows from the Activate records before it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from sluice.errors import WireError
from sluice.metering.baselines import Baseline
from sluice.metering.labels import Bands, Thresholds, bands_for, thresholds_of
from sluice.metering.prices import PriceBook
from sluice.metering.rating import Cost, cost, unpriced_parts
from sluice.metering.validate import check_usage
from sluice.metering.windows import FUTURE_US
from sluice.runtime.governance import ReferenceStore
from sluice.runtime.outputs import Record
from sluice.wire.codec import decode, headers
from sluice.wire.topics import Topics

Rows = dict[str, list[dict[str, Any]]]

LAST_OFFSET = 2**48 - 1  # the room for offsets in a version, below the topic generation


class Position(msgspec.Struct):
    """How far a partition is stored, and what was in force there (usage partitions only)."""

    next_offset: int
    time: int = 0
    price_book: tuple[str, str] | None = None
    baseline: tuple[str, str] | None = None


_SWITCHED = ("price_book", "baseline")


class Storing:
    """Turns records of all stored topics into rows per table."""

    def __init__(self, topics: Topics, references: ReferenceStore, generation: int) -> None:
        self._topics = topics
        self._references = references
        self.version_base = generation << 48
        self.waiting_for: tuple[str, str, str] | None = None
        self._by_topic: dict[str, Callable[[int, Record, Position, Rows], None]] = {
            topics.usage: self._usage,
            topics.windows: partial(_as_it_is, "usage_windows"),
            topics.tasks: partial(_as_it_is, "usage_tasks"),
            topics.sources: partial(_as_it_is, "usage_sources"),
            topics.budgets: partial(_as_it_is, "budget_ledgers"),
            topics.outcomes: partial(_as_it_is, "decision_outcomes"),
            topics.control: self._control,
            topics.dlq: self._dead_letter,
        }

    @property
    def stored_topics(self) -> list[str]:
        """Topics that the sink consumes."""
        return list(self._by_topic)

    def rows(
        self, topic: str, partition: int, records: Sequence[Record], position: Position
    ) -> tuple[Rows, int]:
        """Rows of consecutive records; moves `position` on and returns how many were taken.

        Fewer than all means that a price book in force has not arrived yet.
        """
        rows: Rows = defaultdict(list)
        convert = self._by_topic[topic]
        for index, record in enumerate(records):
            if topic == self._topics.usage and not self.is_at_hand(record, position):
                return rows, index
            convert(partition, record, position, rows)
            position.next_offset = record.offset + 1
        return rows, len(records)

    def is_at_hand(self, record: Record, position: Position) -> bool:
        """Whether the versions in force are here, and the one that `record` may activate."""
        wanted = {kind: getattr(position, kind) for kind in _SWITCHED}
        if (record.value or b"").startswith(_ACTIVATE):
            wanted |= _activated(record)
        names = [(kind, *name) for kind, name in wanted.items() if name]
        self.waiting_for = next((name for name in names if not self._arrived(name)), None)
        return self.waiting_for is None

    def _arrived(self, name: tuple[str, str, str]) -> bool:
        return self._references.get(name) is not None or self._references.is_faulty(name)

    def _usage(self, partition: int, record: Record, position: Position, rows: Rows) -> None:
        position.time = max(position.time, record.timestamp * 1000)
        try:
            name, fields = decode(record.value or b"")
            if name == "UsageEvent":
                check_usage(fields, record.key, position.time)
                row = self._usage_row(partition, record, fields, position)
                rows["usage_events"].append(row)
        except (WireError, OverflowError):
            return  # the meter sends it to the dead-letter topic, which is stored too
        if name == "Activate":
            self._activate(partition, record, fields, position, rows)

    def _usage_row(
        self, partition: int, record: Record, event: dict[str, Any], position: Position
    ) -> dict[str, Any]:
        book: PriceBook | None = self.in_force("price_book", position)
        baseline: Baseline | None = self.in_force("baseline", position)
        priced = event["event_type"] != "admission"
        rated = cost(book, event) if priced else None
        thresholds = thresholds_of(event, book, baseline) if priced else None
        event |= _priced(event, rated, thresholds) if priced else _UNPRICED
        event |= {
            "price_book_version": _book_version(event, book),
            "baseline_version": _baseline_version(event, thresholds, baseline),
            "unpriced": int(priced and rated is None),
            "occurred_at_clamped": min(event["occurred_at"], position.time + FUTURE_US),
            "source_partition": partition,
            "source_offset": record.offset,
            "broker_time": record.timestamp * 1000,
            # The first arrival stays, as in the meter: a resend must neither change the price nor
            # move the event out of a report about the time before it.
            "version": self.version_base + LAST_OFFSET - record.offset,
        }
        del event["end_mark"]
        return event

    def in_force(self, kind: str, position: Position) -> Any:
        """The price book or baseline in force at a position, or None."""
        name = getattr(position, kind)
        return self._references.get((kind, *name)) if name else None

    def _activate(self, partition: int, record: Record, fields: dict[str, Any],
                  position: Position, rows: Rows) -> None:  # fmt: skip
        name = (fields["kind"], fields["id"], fields["version"])
        if fields["kind"] in _SWITCHED and not self._references.is_faulty(name):
            switched = (fields["id"], fields["version"]) if fields["version"] else None
            setattr(position, fields["kind"], switched)
        rows["activations"].append(
            {
                "source_partition": partition, "source_offset": record.offset,
                "kind": fields["kind"], "id": fields["id"],
                "activated_version": fields["version"], "activated_at": record.timestamp * 1000,
            }
        )  # fmt: skip

    def _control(self, partition: int, record: Record, _position: Position, rows: Rows) -> None:
        place: dict[str, Any] = {"source_partition": partition, "control_offset": record.offset,
                 "control_key": (record.key or b"").decode(errors="replace"),
                 "published_at": record.timestamp * 1000}  # fmt: skip
        if record.value is None:
            if place["control_key"].startswith("decision|"):  # leases and budgets end, too
                rows["decision_lifts"].append(place)
            return
        name, fields = decode(record.value)
        if name == "Decision":
            rows["decisions"].append(place | fields)

    def _dead_letter(
        self, _partition: int, record: Record, _position: Position, rows: Rows
    ) -> None:
        headers = {name: value.decode(errors="replace") for name, value in _headers(record)}
        value = record.value or b""
        rows["dead_letters"].append(
            {
                "reason": headers.get("reason", ""), "detail": headers.get("detail", ""),
                "topic": headers.get("topic", ""), "partition": int(headers.get("partition", -1)),
                "offset": int(headers.get("offset", -1)),
                "key": (record.key or b"").decode(errors="replace"), "value_bytes": len(value),
                "value_sha256": hashlib.sha256(value).hexdigest(),
                "arrived_at": record.timestamp * 1000,
            }
        )  # fmt: skip


_ACTIVATE = headers("Activate")


def _activated(record: Record) -> dict[str, tuple[str, str]]:
    try:
        fields = decode(record.value or b"")[1]
    except WireError:
        return {}
    if fields["kind"] not in _SWITCHED or not fields["version"]:
        return {}
    return {fields["kind"]: (fields["id"], fields["version"])}


def _as_it_is(table: str, _partition: int, record: Record, _position: Position, rows: Rows) -> None:
    rows[table].append(decode(record.value or b"")[1])


_UNPRICED: dict[str, Any] = {
    "cost_pusd": None, "usage_by_class": [], "baseline_q50_pusd": None, "baseline_q95_pusd": None,
    **dict.fromkeys(Bands._fields, 0),
}  # fmt: skip


def _priced(
    event: dict[str, Any], rated: Cost | None, thresholds: Thresholds | None
) -> dict[str, Any]:
    """What an event cost, per class and per band; empty bands without a price."""
    cost_pusd = None if rated is None else rated.cost_pusd
    bands = Bands(0, 0, 0) if cost_pusd is None else bands_for(event, cost_pusd, thresholds)
    parts = unpriced_parts(event) if rated is None else rated.parts
    return {
        "cost_pusd": cost_pusd,
        "cost_source": event["cost_source"] if rated is None else rated.cost_source,
        "usage_by_class": [part._asdict() for part in parts],
        "baseline_q50_pusd": thresholds.q50_pusd if thresholds else None,
        "baseline_q95_pusd": thresholds.q95_pusd if thresholds else None,
        **bands._asdict(),
    }


def _book_version(event: dict[str, Any], book: PriceBook | None) -> str | None:
    """The book that an event was priced by; a correction says itself which one that is."""
    stated: str | None = event["price_book_version"]
    if book is None or event["event_type"] == "admission":
        return stated
    return stated or book.version if event["event_type"] == "correction" else book.version


def _baseline_version(
    event: dict[str, Any], thresholds: Thresholds | None, baseline: Baseline | None
) -> str | None:
    """The baseline that judged an event; a correction carries its original's thresholds instead."""
    if thresholds is None or event["event_type"] == "correction":
        return None
    return "packaged" if thresholds.packaged or baseline is None else baseline.version


def _headers(record: Any) -> Sequence[tuple[str, bytes]]:
    return record.headers or ()
