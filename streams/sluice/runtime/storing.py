"""From consumed records to ClickHouse rows: pure, so that a replay gives the same rows.

Raw usage is priced here with the same functions and the same versions as in the meter: what is in
force at an offset follows from the Activate records before it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sluice.errors import WireError
from sluice.metering.prices import PriceBook
from sluice.metering.rating import cost
from sluice.metering.validate import check_usage
from sluice.metering.windows import FUTURE_US
from sluice.runtime.governance import ReferenceStore
from sluice.runtime.outputs import Record
from sluice.wire.codec import MAGIC, decode
from sluice.wire.schema import fingerprint
from sluice.wire.topics import Topics

Rows = dict[str, list[dict[str, Any]]]

_LAST_OFFSET = 2**48 - 1  # the room for offsets in a version, below the topic generation


class Position(msgspec.Struct):
    """How far a partition is stored, and what was in force there (usage partitions only)."""

    next_offset: int
    time: int = 0
    price_book: tuple[str, str] | None = None


class Storing:
    """Turns records of all stored topics into rows per table."""

    def __init__(self, topics: Topics, references: ReferenceStore, generation: int) -> None:
        self._topics = topics
        self._references = references
        self._version_base = generation << 48
        self.waiting_for: tuple[str, str, str] | None = None
        self._by_topic: dict[str, Callable[[int, Record, Position, Rows], None]] = {
            topics.usage: self._usage,
            topics.windows: self._window,
            topics.budgets: self._budget,
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
            if topic == self._topics.usage and not self._at_hand(record, position):
                return rows, index
            convert(partition, record, position, rows)
            position.next_offset = record.offset + 1
        return rows, len(records)

    def _at_hand(self, record: Record, position: Position) -> bool:
        """Whether the book in force is here, and the one that `record` may activate."""
        wanted = position.price_book
        if (record.value or b"").startswith(_ACTIVATE):
            wanted = _activated_book(record) or wanted
        name = ("price_book", *wanted) if wanted else None
        arrived = (
            name is None
            or self._references.get(name) is not None
            or self._references.is_faulty(name)
        )
        self.waiting_for = None if arrived else name
        return arrived

    def _usage(self, partition: int, record: Record, position: Position, rows: Rows) -> None:
        position.time = max(position.time, record.timestamp * 1000)
        try:
            name, fields = decode(record.value or b"")
            if name == "UsageEvent":
                check_usage(fields, record.key, position.time)
        except WireError:
            return  # the meter sends it to the dead-letter topic, which is stored too
        if name == "UsageEvent":
            rows["usage_events"].append(self._usage_row(partition, record, fields, position))
        elif name == "Activate":
            self._activate(partition, record, fields, position, rows)

    def _usage_row(
        self, partition: int, record: Record, event: dict[str, Any], position: Position
    ) -> dict[str, Any]:
        book: PriceBook | None = None
        if position.price_book is not None:
            book = self._references.get(("price_book", *position.price_book))
        priced = event["event_type"] != "admission"
        rated = cost(book, event) if priced else None
        event |= {
            "cost_pusd": None if rated is None else rated.cost_pusd,
            "price_book_version": book.version if priced and book else event["price_book_version"],
            "unpriced": int(priced and rated is None),
            "occurred_at_clamped": min(event["occurred_at"], position.time + FUTURE_US),
            "source_partition": partition,
            "source_offset": record.offset,
            "broker_time": record.timestamp * 1000,
            # The first arrival stays, as in the meter: a resend must neither change the price nor
            # move the event out of a report about the time before it.
            "version": self._version_base + _LAST_OFFSET - record.offset,
        }
        del event["end_mark"]
        return event

    def _activate(self, partition: int, record: Record, fields: dict[str, Any],
                  position: Position, rows: Rows) -> None:  # fmt: skip
        name = (fields["kind"], fields["id"], fields["version"])
        if fields["kind"] == "price_book" and not self._references.is_faulty(name):
            position.price_book = (fields["id"], fields["version"]) if fields["version"] else None
        rows["activations"].append(
            {
                "source_partition": partition, "source_offset": record.offset,
                "kind": fields["kind"], "id": fields["id"],
                "activated_version": fields["version"], "activated_at": record.timestamp * 1000,
            }
        )  # fmt: skip

    def _window(self, _partition: int, record: Record, _position: Position, rows: Rows) -> None:
        rows["usage_windows"].append(decode(record.value or b"")[1])

    def _budget(self, _partition: int, record: Record, _position: Position, rows: Rows) -> None:
        rows["budget_states"].append(decode(record.value or b"")[1])

    def _control(self, partition: int, record: Record, _position: Position, rows: Rows) -> None:
        place = {"source_partition": partition, "control_offset": record.offset,
                 "control_key": (record.key or b"").decode(errors="replace"),
                 "published_at": record.timestamp * 1000}  # fmt: skip
        if record.value is None:
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


_ACTIVATE = MAGIC + fingerprint("Activate")


def _activated_book(record: Record) -> tuple[str, str] | None:
    try:
        fields = decode(record.value or b"")[1]
    except WireError:
        return None
    named = fields["kind"] == "price_book" and fields["version"]
    return (fields["id"], fields["version"]) if named else None


def _headers(record: Any) -> Sequence[tuple[str, bytes]]:
    return record.headers or ()
