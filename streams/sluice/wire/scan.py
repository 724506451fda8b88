"""Read a topic once, from its beginning to the end as it stands now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from sluice.errors import OutsideError
from sluice.settings import Settings
from sluice.wire.kafka import consumer_config

_SILENCE_S = 15.0


class Scanned(NamedTuple):
    """One committed record; `timestamp` in ms as the topic keeps it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def committed_records(settings: Settings, *names: str) -> Iterator[Scanned]:
    """Every committed record of the named topics, partition by partition in order."""
    consumer = Consumer(consumer_config(settings, **{"enable.partition.eof": True}))
    try:
        open_ends = _assign(consumer, names)
        heard = time.monotonic()
        while open_ends:
            for message in consumer.consume(5000, 0.02):
                heard = time.monotonic()
                error = message.error()
                if error is None:
                    yield message_as_record(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_ends.discard((message.topic() or "", message.partition() or 0))
            if time.monotonic() - heard > _SILENCE_S:
                raise OutsideError(f"no answer from the broker while reading {', '.join(names)}")
    finally:
        consumer.close()


def message_as_record(message: Message) -> Scanned:
    """A consumed message without an error, as plain values."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return Scanned(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        [(name, value) for name, value in pairs if isinstance(value, bytes)],
    )


def _assign(consumer: Consumer, names: tuple[str, ...]) -> set[tuple[str, int]]:
    try:
        listed = {name: consumer.list_topics(name, timeout=10).topics[name] for name in names}
    except KafkaException as error:
        raise OutsideError(f"Kafka did not answer: {error.args[0].str()}") from error
    ends = {(name, number) for name, topic in listed.items() for number in topic.partitions}
    consumer.assign([TopicPartition(name, number, 0) for name, number in sorted(ends)])
    return ends
