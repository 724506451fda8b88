"""Policies, price books and baselines as published on their topics, by version.

Usage carries only the names of versions (Activate records); whoever applies usage waits here until
it holds the named version.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from sluice.enforcement.policy import Policy
from sluice.errors import SluiceError
from sluice.metering.baselines import BASELINE_ID, Baseline, load_baseline
from sluice.metering.prices import PriceBook, load_book
from sluice.settings import Settings
from sluice.wire.codec import decode
from sluice.wire.kafka import consumer_config, topics
from sluice.wire.scan import committed_records

log = logging.getLogger(__name__)

Reference = Policy | PriceBook | Baseline
Name = tuple[str, str, str]  # kind, id, version


class References:
    """Follows policy.v1 and reference.v1 in a thread; `get` never blocks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: dict[Name, Reference] = {}
        self._faulty: set[Name] = set()
        self._doubted: set[Name] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="references", daemon=True)

    def start(self) -> References:
        """Begin to follow."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(timeout=5)

    def get(self, name: Name) -> Reference | None:
        """The published version, or None while it has not arrived."""
        return self._held.get(name)

    def is_faulty(self, name: Name) -> bool:
        """Whether that version arrived and cannot be read."""
        return name in self._faulty

    def doubt(self, name: Name) -> None:
        """Ask for a verdict on a version that does not arrive.

        A version is published before it is activated, so one that is not on its topic by now was
        never published: it becomes faulty once everything up to the present end was read.
        """
        if name not in self._held:
            self._doubted.add(name)

    def _follow(self) -> None:
        names = topics(self._settings)
        consumer = Consumer(consumer_config(self._settings))
        followed = [TopicPartition(topic, 0, 0) for topic in (names.policy, names.reference)]
        consumer.assign(followed)
        while not self._stop.is_set():
            doubted = set(self._doubted)
            ends = _ends(consumer, followed) if doubted else None
            self._read(consumer)
            if ends is not None and _reached(consumer, followed, ends):
                self._faulty |= {name for name in doubted if name not in self._held}
                self._doubted -= doubted
        consumer.close()

    def _read(self, consumer: Consumer) -> None:
        for message in consumer.consume(100, 0.1):
            if message.error() is None and message.value() is not None:
                self._take(message)
            elif message.error() is None:
                self._drop(message.key() or b"")

    def _drop(self, key: bytes) -> None:
        """A tombstone: the version is older than any usage that could name it."""
        self._held.pop(reference_name(key), None)

    def _take(self, message: Message) -> None:
        try:
            name, reference = _reference(*decode(message.value() or b""))
        except (SluiceError, ValueError) as error:
            log.warning("%s[%s]: %s", message.topic(), message.offset(), error)
        else:
            self._held[name] = reference


def reference_name(key: bytes) -> Name:
    """The published version that a Kafka key names."""
    kind, ident, version = (*key.decode(errors="replace").split("|"), "", "")[:3]
    return kind, ident, version


def read_references(settings: Settings) -> dict[Name, Reference]:
    """Everything published so far, by name; blocks while the topics are read."""
    names = topics(settings)
    held: dict[Name, Reference] = {}
    for record in committed_records(settings, names.policy, names.reference):
        if record.value:
            with suppress(SluiceError, ValueError):
                name, reference = _reference(*decode(record.value))
                held[name] = reference
    return held


def reference_key(name: Name) -> bytes:
    """Kafka key of a published version."""
    return "|".join(name).encode()


def _ends(consumer: Consumer, followed: list[TopicPartition]) -> list[int] | None:
    try:
        return [consumer.get_watermark_offsets(tp, timeout=5)[1] for tp in followed]
    except KafkaException:
        return None


def _reached(consumer: Consumer, followed: list[TopicPartition], ends: list[int]) -> bool:
    positions = [max(0, tp.offset) for tp in consumer.position(followed)]
    return all(position >= end for position, end in zip(positions, ends, strict=True))


def _reference(record: str, fields: dict[str, Any]) -> tuple[Name, Reference]:
    if record == "Policy":
        policy = Policy.from_json(fields["body"])
        return ("policy", policy.policy_id, policy.version), policy
    if record == "PriceBook":
        book = load_book(fields["body"])
        return ("price_book", book.book_id, book.version), book
    if record == "Baseline":
        baseline = load_baseline(fields["body"])
        return ("baseline", BASELINE_ID, baseline.version), baseline
    raise SluiceError(f"unexpected record {record}")
