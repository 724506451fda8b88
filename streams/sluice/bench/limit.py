"""The limit of this machine: consume, decode columns, group; nothing is kept or written.

Run as a process of its own: `python -m sluice.bench.limit BOOTSTRAP TOPIC EVENTS READER MEASURED`
(events in the topic, and how many to measure over, in passes).
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

from sluice.errors import OutsideError
from sluice.wire import schema
from sluice.wire.codec import HEADER_BYTES
from sluice.wire.columns import Numbers, Texts, is_readable, read_usage

_KEYS = ("tenant_id", "project_id", "response_model", "tool_name")
_SUMS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "reasoning_output_tokens")
_GROUP = ("minute", *_KEYS)
_WINDOW_US = 60_000_000
_CHUNK, _SILENCE_S = 10_000, 20.0
_SYNC = bytes(range(16))

Reader = Callable[[Sequence[bytes]], Any]


def main() -> None:
    """Print the sums of the first pass, and events, CPU and wall seconds of the passes after it.

    The first pass pays for what a process does only once; measured over a short topic alone, that
    would make the limit look low and everything compared with it look good.
    """
    bootstrap, topic, count, name, measured = sys.argv[1:]
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "limit", "enable.auto.commit": False,
        "isolation.level": "read_committed", "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 1_000_000, "fetch.wait.max.ms": 20,
    })  # fmt: skip
    found = _pass(consumer, topic, int(count), name)
    passes = -(-int(measured) // int(count))
    begun, begun_cpu = time.monotonic(), time.process_time()
    for _ in range(passes):
        _pass(consumer, topic, int(count), name)
    cpu_s, wall_s = time.process_time() - begun_cpu, time.monotonic() - begun
    used = {"measured_events": passes * int(count), "cpu_s": cpu_s, "wall_s": wall_s}
    print(json.dumps(found | used))
    consumer.close()


def _pass(consumer: Consumer, topic: str, count: int, name: str) -> dict[str, int]:
    read, join = READERS[name]
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    return join([read(values) for values in _chunks(consumer, count)])


def _chunks(consumer: Consumer, count: int) -> Iterator[list[bytes]]:
    """Values of usage events, until there were `count` of them."""
    heard = time.monotonic()
    while count > 0:
        messages = consumer.consume(_CHUNK, 0.05)
        found = [message.value() or b"" for message in messages if message.error() is None]
        values = [value for value in found if is_readable(value)]
        if values:
            heard = time.monotonic()
            count -= len(values)
            yield values
        elif time.monotonic() - heard > _SILENCE_S:
            raise OutsideError(f"{count} events are missing")


def _compiled(values: Sequence[bytes]) -> pa.Table:
    columns = read_usage(values).columns
    occurred = columns["occurred_at"]
    if not isinstance(occurred, Numbers):
        raise TypeError("occurred_at holds no numbers")
    arrays: dict[str, Any] = {"minute": pa.array(occurred.value // _WINDOW_US)}
    for name in (*_KEYS, *_SUMS):
        column = columns[name]
        if isinstance(column, Texts):
            arrays[name] = column.array().dictionary_encode()
        elif isinstance(column, Numbers):
            arrays[name] = pa.array(column.value)
    arrays["events"] = pa.array([1] * len(values), type=pa.int64())
    # Dictionaries of different chunks cannot be joined, so the few grouped rows lose theirs.
    grouped = _grouped(pa.table(arrays))
    plain = [(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type)
             for f in grouped.schema]  # fmt: skip
    return grouped.cast(pa.schema(plain))


def _grouped(table: pa.Table) -> pa.Table:
    sums = ("events", *_SUMS)
    grouped = table.group_by(list(_GROUP), use_threads=False).aggregate([(n, "sum") for n in sums])
    return grouped.rename_columns([name.removesuffix("_sum") for name in grouped.column_names])


def _join_arrow(parts: list[pa.Table]) -> dict[str, int]:
    whole = _grouped(pa.concat_tables(parts))
    return {"rows": whole.num_rows, **{name: int(sum(whole[name].to_pylist()))
                                       for name in ("events", *_SUMS)}}  # fmt: skip


def _polars(values: Sequence[bytes]) -> Any:
    import polars as pl  # noqa: PLC0415 (measured only where it is installed)

    frame = pl.read_avro(io.BytesIO(_container(values)))
    minute = (pl.col("occurred_at") // _WINDOW_US).alias("minute")
    sums = [pl.col(name).sum() for name in _SUMS]
    return frame.group_by(minute, *_KEYS).agg(pl.len().cast(pl.Int64).alias("events"), *sums)


def _join_polars(parts: list[Any]) -> dict[str, int]:
    import polars as pl  # noqa: PLC0415

    names = ("events", *_SUMS)
    whole = pl.concat(parts).group_by(*_GROUP).agg([pl.col(name).sum() for name in names])
    return {"rows": whole.height, **{name: int(whole[name].sum()) for name in names}}


def _container(values: Sequence[bytes]) -> bytes:
    """Datums as the single block of an Avro container file."""
    body = b"".join([value[HEADER_BYTES:] for value in values])
    return b"".join([_container_head(), _long(len(values)), _long(len(body)), body, _SYNC])


@cache
def _container_head() -> bytes:
    meta = {"avro.schema": json.dumps(schema.columnar_schema("UsageEvent")), "avro.codec": "null"}
    pairs = [_text(text) for pair in meta.items() for text in pair]
    return b"".join([b"Obj\x01", _long(len(meta)), *pairs, _long(0), _SYNC])


def _text(text: str) -> bytes:
    return _long(len(text.encode())) + text.encode()


def _long(number: int) -> bytes:
    zigzag, pieces = number << 1, bytearray()
    while zigzag > 0x7F:
        pieces.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*pieces, zigzag])


READERS: dict[str, tuple[Reader, Callable[[list[Any]], dict[str, int]]]] = {
    "compiled": (_compiled, _join_arrow),
    "polars": (_polars, _join_polars),
}

if __name__ == "__main__":
    main()
