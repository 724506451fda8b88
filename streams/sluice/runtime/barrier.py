"""A mark in the stream of usage: when the sink has passed it, all that came before is stored."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from sluice.errors import OutsideError
from sluice.settings import Settings
from sluice.warehouse.writer import Writer
from sluice.wire.codec import encode
from sluice.wire.kafka import producer_config, topics

_SEND_S = 15.0
_POLL_S = 0.1


class _Reached(msgspec.Struct):
    next_offset: int


def wait_until_stored(settings: Settings, timeout_s: float = 60.0) -> None:
    """Return when ClickHouse holds every usage record that was acknowledged before the call.

    Raises OutsideError where broker, ClickHouse or sink do not get there within `timeout_s`.
    """
    marks = _mark(settings)
    deadline = time.monotonic() + timeout_s
    writer = Writer(settings)
    try:
        while behind := _behind(marks, writer.positions(), topics(settings).usage):
            if time.monotonic() > deadline:
                raise OutsideError(
                    f"the sink has not stored everything within {timeout_s:.0f} s: it is "
                    f"{sum(behind.values())} records behind; see `sluice status`, then try again"
                )
            time.sleep(_POLL_S)
    finally:
        writer.close()


def _mark(settings: Settings) -> dict[int, int]:
    """Append a Tick to every usage partition; its offset per partition."""
    marks: dict[int, int] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        place, offset = message.partition(), message.offset()
        if error is None and place is not None and offset is not None:
            marks[place] = offset

    producer = Producer(producer_config(settings))
    usage = topics(settings).usage
    for number in range(settings.partitions):
        producer.produce(usage, encode("Tick", {}), None, partition=number, on_delivery=delivered)
    producer.flush(_SEND_S)
    if len(marks) < settings.partitions:
        raise OutsideError(f"no Kafka broker answers at {settings.bootstrap}; try again")
    return marks


def _behind(
    marks: Mapping[int, int], stored: Mapping[tuple[str, int], str], topic: str
) -> dict[int, int]:
    reached = {
        place: msgspec.json.decode(stored[topic, place], type=_Reached).next_offset
        for place in marks
        if (topic, place) in stored
    }
    return {
        place: offset + 1 - reached.get(place, 0)
        for place, offset in marks.items()
        if reached.get(place, 0) <= offset
    }
